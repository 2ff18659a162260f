"""lanes by endpoint that can be held, batches that end without Together, bounds of priorities"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_WAITING = "state = 'queued' AND admitted_at IS NULL AND parked_at IS NULL"
_ADMITTED = (
    "admitted_at IS NOT NULL AND parked_at IS NULL AND state IN ('queued', 'uploaded', 'created')"
)


def _count(name: str, value: int = 0) -> "sa.Column[Any]":
    return sa.Column(name, sa.BigInteger(), server_default=str(value), nullable=False)


def _index(name: str, columns: list[str], where: str) -> None:
    op.drop_index(name, "batches", schema="haulier")
    op.create_index(name, "batches", columns, schema="haulier", postgresql_where=sa.text(where))


def upgrade() -> None:
    endpoint = sa.Column("endpoint", sa.Text(), server_default="", nullable=False)
    for column in (
        endpoint,
        _count("refusals"),
        _count("held"),
        sa.Column("ending", sa.String(16)),
    ):
        op.add_column("batches", column, schema="haulier")
    op.execute(
        "UPDATE haulier.batches SET endpoint = jobs.endpoint,"
        " ending = CASE WHEN jobs.cancel_requested_at IS NOT NULL THEN 'cancelled' END"
        " FROM haulier.jobs WHERE jobs.id = batches.job_id"
        " AND batches.state IN ('created', 'ended', 'queued', 'uploaded')"
    )
    op.create_check_constraint(
        op.f("batches_ending_check"),
        "batches",
        "ending IN ('again', 'cancelled', 'dead')",
        schema="haulier",
    )
    _index(
        "batches_waiting_idx",
        ["account", "endpoint", "model", "priority", "producer", "not_before", "shard"],
        _WAITING,
    )
    _index("batches_admitted_idx", ["account", "endpoint", "model"], _ADMITTED)
    # What was learned about a model under its account was nearly always learned about chats.
    op.add_column(
        "lanes",
        sa.Column("endpoint", sa.Text(), server_default="/v1/chat/completions", nullable=False),
        schema="haulier",
    )
    op.alter_column("lanes", "endpoint", server_default=None, schema="haulier")
    op.drop_constraint("lanes_pkey", "lanes", schema="haulier")
    op.create_primary_key(
        op.f("lanes_pkey"), "lanes", ["account", "endpoint", "model"], schema="haulier"
    )
    op.add_column("lanes", sa.Column("held_until", _MOMENT), schema="haulier")
    op.add_column("lanes", sa.Column("reason", sa.Text()), schema="haulier")
    op.add_column("lanes", _count("refusals"), schema="haulier")
    for column in (_count("lowest_priority"), _count("highest_priority", 9)):
        op.add_column("producers", column, schema="haulier")
    op.create_check_constraint(
        op.f("producers_priorities_check"),
        "producers",
        "lowest_priority <= highest_priority",
        schema="haulier",
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.Text(), nullable=False),
        _count("count"),
        sa.PrimaryKeyConstraint("name", name=op.f("counters_pkey")),
        schema="haulier",
    )


def downgrade() -> None:
    op.drop_table("counters", schema="haulier")
    for column in ("lowest_priority", "highest_priority"):
        op.drop_column("producers", column, schema="haulier")
    for column in ("held_until", "reason", "refusals"):
        op.drop_column("lanes", column, schema="haulier")
    op.drop_constraint("lanes_pkey", "lanes", schema="haulier")
    op.execute("DELETE FROM haulier.lanes WHERE endpoint <> '/v1/chat/completions'")
    op.drop_column("lanes", "endpoint", schema="haulier")
    op.create_primary_key(op.f("lanes_pkey"), "lanes", ["account", "model"], schema="haulier")
    _index(
        "batches_waiting_idx",
        ["account", "model", "priority", "producer", "not_before", "shard"],
        _WAITING,
    )
    _index("batches_admitted_idx", ["account", "model"], _ADMITTED)
    for name in ("endpoint", "refusals", "held", "ending"):
        op.drop_column("batches", name, schema="haulier")
