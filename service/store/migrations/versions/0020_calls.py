"""calls: jobs that came as ordinary calls, whose clients wait for the answer"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_LISTS = {
    "jobs_producer_id_idx": ("producer, created_at, id", "producer, is_call, created_at, id"),
    "jobs_created_at_id_idx": ("created_at, id", "is_call, created_at, id"),
    "jobs_state_created_at_id_idx": ("state, created_at, id", "state, is_call, created_at, id"),
}
_INDEXES = (
    "CREATE INDEX jobs_finished_calls_idx ON haulier.jobs (finished_at)"
    " WHERE is_call AND finished_at IS NOT NULL",
    "CREATE INDEX calls_unattended_idx ON haulier.calls (credential, digest, held_since)"
    " WHERE delivered_at IS NULL AND attendant IS NULL",
    "CREATE INDEX calls_attended_idx ON haulier.calls (credential, digest, held_since)"
    " WHERE delivered_at IS NULL AND attendant IS NOT NULL",
    "CREATE INDEX calls_delivered_idx ON haulier.calls (credential, digest, delivered_at)"
    " WHERE delivered_at IS NOT NULL",
    "CREATE INDEX calls_attendant_idx ON haulier.calls (attendant) WHERE attendant IS NOT NULL",
)


def _instant(name: str, **more: Any) -> "sa.Column[datetime]":
    return sa.Column(name, sa.DateTime(timezone=True), **more)


def upgrade() -> None:
    is_call: sa.Column[bool] = sa.Column(
        "is_call", sa.Boolean(), server_default=sa.text("false"), nullable=False
    )
    op.add_column("jobs", is_call, schema="haulier")
    op.add_column("producers", sa.Column("held_calls", sa.BigInteger()), schema="haulier")
    op.create_check_constraint(
        op.f("producers_held_calls_check"), "producers", "held_calls > 0", schema="haulier"
    )
    now = sa.text("now()")
    op.create_table(
        "calls",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("credential", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary()),
        sa.Column("attendant", sa.Uuid()),
        sa.Column("hold", sa.Uuid(), nullable=False),
        _instant("held_since", server_default=now, nullable=False),
        _instant("delivered_at"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["haulier.jobs.id"], name=op.f("calls_job_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("calls_pkey")),
        schema="haulier",
    )
    op.create_table(
        "attendants",
        sa.Column("id", sa.Uuid(), nullable=False),
        _instant("seen_at", server_default=now, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("attendants_pkey")),
        schema="haulier",
    )
    for name, (_, columns) in _LISTS.items():
        _replace(name, columns)
    for index in _INDEXES:
        op.execute(index)


def downgrade() -> None:
    for name, (columns, _) in _LISTS.items():
        _replace(name, columns)
    op.drop_table("attendants", schema="haulier")
    op.drop_table("calls", schema="haulier")
    op.drop_constraint(op.f("producers_held_calls_check"), "producers", schema="haulier")
    op.drop_column("producers", "held_calls", schema="haulier")
    op.drop_column("jobs", "is_call", schema="haulier")


def _replace(index: str, columns: str) -> None:
    op.execute(f"DROP INDEX haulier.{index}")
    op.execute(f"CREATE INDEX {index} ON haulier.jobs ({columns})")
