"""admission, learned paces, retention"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_OPEN = "state IN ('created', 'ended', 'queued', 'uploaded')"


def upgrade() -> None:
    op.create_table(
        "lanes",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("ended", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("tokens_per_byte", sa.Float(), nullable=True),
        sa.Column("admitted", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("account", "model", name=op.f("lanes_pkey")),
        schema="haulier",
    )
    op.create_table(
        "leftovers",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("account", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "written_before",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "not_before",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("failures", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("leftovers_pkey")),
        schema="haulier",
    )
    op.create_index("leftovers_due_idx", "leftovers", ["account", "not_before"], schema="haulier")
    op.create_table(
        "chores",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "begun_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("chores_pkey")),
        schema="haulier",
    )
    op.add_column("jobs", sa.Column("page_blob", sa.Text(), nullable=True), schema="haulier")
    op.create_index(
        "jobs_finished_at_idx",
        "jobs",
        ["finished_at"],
        schema="haulier",
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "jobs_page_blob_idx",
        "jobs",
        ["page_blob"],
        schema="haulier",
        postgresql_where=sa.text("page_blob IS NOT NULL"),
    )
    # With defaults, since what runs during the upgrade does not know of them.
    for column in (
        sa.Column("producer", sa.Text(), server_default="", nullable=False),
        sa.Column("admitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("tokens", sa.BigInteger(), server_default="0", nullable=False),
    ):
        op.add_column("batches", column, schema="haulier")
    op.execute(
        "UPDATE haulier.batches SET producer = jobs.producer,"
        " admitted_at = CASE WHEN batches.state <> 'queued' THEN now() END"
        " FROM haulier.jobs WHERE jobs.id = batches.job_id"
        " AND batches.state IN ('created', 'ended', 'queued', 'uploaded')"
    )
    op.drop_index("batches_due_idx", "batches", schema="haulier")
    op.create_index(
        "batches_due_idx",
        "batches",
        ["not_before"],
        schema="haulier",
        postgresql_where=sa.text(
            f"parked_at IS NULL AND {_OPEN} AND (state <> 'queued' OR admitted_at IS NOT NULL)"
        ),
    )
    op.create_index(
        "batches_waiting_idx",
        "batches",
        ["account", "model", "priority", "producer", "not_before", "shard"],
        schema="haulier",
        postgresql_where=sa.text("state = 'queued' AND admitted_at IS NULL AND parked_at IS NULL"),
    )
    op.create_index(
        "batches_admitted_idx",
        "batches",
        ["account", "model"],
        schema="haulier",
        postgresql_where=sa.text(
            "admitted_at IS NOT NULL AND parked_at IS NULL"
            " AND state IN ('queued', 'uploaded', 'created')"
        ),
    )


def downgrade() -> None:
    op.drop_index("batches_admitted_idx", "batches", schema="haulier")
    op.drop_index("batches_waiting_idx", "batches", schema="haulier")
    op.drop_index("batches_due_idx", "batches", schema="haulier")
    op.create_index(
        "batches_due_idx",
        "batches",
        ["not_before"],
        schema="haulier",
        postgresql_where=sa.text(f"parked_at IS NULL AND {_OPEN}"),
    )
    for column in ("tokens", "admitted_at", "producer"):
        op.drop_column("batches", column, schema="haulier")
    op.drop_index("jobs_page_blob_idx", "jobs", schema="haulier")
    op.drop_index("jobs_finished_at_idx", "jobs", schema="haulier")
    op.drop_column("jobs", "page_blob", schema="haulier")
    op.drop_table("chores", schema="haulier")
    op.drop_index("leftovers_due_idx", "leftovers", schema="haulier")
    op.drop_table("leftovers", schema="haulier")
    op.drop_table("lanes", schema="haulier")
