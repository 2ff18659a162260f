"""producers' tokens, allow-lists and limits; usage by day"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TOKENS = ("prompt_tokens", "completion_tokens", "total_tokens")
_LISTS = {
    "accounts": "'[\"default\"]'",
    "input_roots": "'[]'",
    "notice_tasks": "'[]'",
    "notice_queues": "'[]'",
}
_LIMITS = ("body_bytes", "open_requests", "requests_per_day")


def _json() -> postgresql.JSONB:
    return postgresql.JSONB(none_as_null=True)


def _counter(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def upgrade() -> None:
    for name, default in _LISTS.items():
        op.add_column(
            "producers",
            sa.Column(name, _json(), server_default=sa.text(default), nullable=True),
            schema="haulier",
        )
    for name in _LIMITS:
        op.add_column(
            "producers", sa.Column(name, sa.BigInteger(), nullable=True), schema="haulier"
        )
    op.add_column("producers", sa.Column("counted_on", sa.Date(), nullable=True), schema="haulier")
    op.add_column("producers", _counter("counted_requests"), schema="haulier")
    op.add_column(
        "producers",
        sa.Column("signing_secrets", _json(), server_default=sa.text("'[]'"), nullable=False),
        schema="haulier",
    )
    op.create_check_constraint(
        op.f("producers_limits_check"),
        "producers",
        "body_bytes > 0 AND open_requests > 0 AND requests_per_day > 0",
        schema="haulier",
    )
    # The operator's own, and whoever names nobody on the queue: everything there is.
    op.execute(
        "INSERT INTO haulier.producers (name, accounts, input_roots, notice_tasks, notice_queues)"
        " VALUES ('default', NULL, NULL, NULL, NULL) ON CONFLICT (name) DO UPDATE SET"
        " accounts = NULL, input_roots = NULL, notice_tasks = NULL, notice_queues = NULL"
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("producer", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), server_default="", nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", _json(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["producer"], ["haulier.producers.name"], name=op.f("tokens_producer_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("tokens_pkey")),
        schema="haulier",
    )
    op.create_index("tokens_producer_idx", "tokens", ["producer", "created_at"], schema="haulier")
    for name in _TOKENS:
        op.add_column("batches", _counter(name), schema="haulier")
    op.create_table(
        "usage",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("producer", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        *(_counter(name) for name in ("batches", "succeeded", "dead", *_TOKENS)),
        sa.PrimaryKeyConstraint("day", "producer", "account", "model", name=op.f("usage_pkey")),
        schema="haulier",
    )
    op.create_index("usage_producer_idx", "usage", ["producer", "day"], schema="haulier")
    op.create_index(
        "jobs_open_idx",
        "jobs",
        ["producer"],
        schema="haulier",
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_index(
        "jobs_metadata_idx",
        "jobs",
        ["metadata"],
        schema="haulier",
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
    )


def downgrade() -> None:
    op.drop_index("jobs_metadata_idx", "jobs", schema="haulier")
    op.drop_index("jobs_open_idx", "jobs", schema="haulier")
    op.drop_index("usage_producer_idx", "usage", schema="haulier")
    op.drop_table("usage", schema="haulier")
    for name in _TOKENS:
        op.drop_column("batches", name, schema="haulier")
    op.drop_index("tokens_producer_idx", "tokens", schema="haulier")
    op.drop_table("tokens", schema="haulier")
    op.drop_constraint(op.f("producers_limits_check"), "producers", schema="haulier")
    for name in ("signing_secrets", "counted_requests", "counted_on", *_LIMITS, *_LISTS):
        op.drop_column("producers", name, schema="haulier")
