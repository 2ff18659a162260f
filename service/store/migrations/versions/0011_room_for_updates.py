"""room for updates that change no index, and queries that skip what is paused"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_DUE = (
    "parked_at IS NULL AND state IN ('created', 'ended', 'queued', 'uploaded')"
    " AND (state <> 'queued' OR admitted_at IS NOT NULL)"
)
_WAITING = "state = 'queued' AND admitted_at IS NULL AND parked_at IS NULL"
_JOBS = "parked_at IS NULL AND (state = 'accepted' OR (state = 'running' AND open_batches = 0))"
_LANE = ["account", "endpoint", "model"]

# Rows of these tables are updated again and again while they are open. The free room in each page
# takes the new versions, and vacuum comes before there are many old ones.
_STORAGE: dict[str, dict[str, float]] = {
    "batches": {"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.02},
    "jobs": {"fillfactor": 80, "autovacuum_vacuum_scale_factor": 0.02},
    "accounts": {"fillfactor": 50},
    "chores": {"fillfactor": 50},
    "counters": {"fillfactor": 50},
    "heartbeats": {"fillfactor": 50},
    "lanes": {"fillfactor": 50},
    "ticks": {"fillfactor": 50},
}


def _index(table: str, name: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, schema="haulier", postgresql_where=sa.text(where))


def _drop(table: str, *names: str) -> None:
    for name in names:
        op.drop_index(name, table, schema="haulier")


def upgrade() -> None:
    op.add_column(
        "batches",
        sa.Column(
            "ready_at",
            sa.DateTime(timezone=True),
            server_default=sa.func.now(),
            nullable=False,
        ),
        schema="haulier",
    )
    op.execute(f"UPDATE haulier.batches SET ready_at = not_before WHERE {_WAITING}")  # noqa: S608  constant words
    _drop("batches", "batches_due_idx", "batches_waiting_idx")
    _index("batches", "batches_due_idx", ["state", *_LANE, "priority"], _DUE)
    _index(
        "batches",
        "batches_waiting_idx",
        [*_LANE, "priority", "producer", "ready_at", "shard"],
        _WAITING,
    )
    _index("batches", "batches_ending_idx", ["state"], "ending IS NOT NULL AND finished_at IS NULL")
    _drop("jobs", "jobs_due_idx")
    _index("jobs", "jobs_due_idx", ["producer", "priority", "not_before"], _JOBS)
    _index(
        "jobs", "jobs_under_way_idx", ["producer"], "dispatched_at IS NOT NULL OR lease IS NOT NULL"
    )
    for table, options in _STORAGE.items():
        given = ", ".join(f"{name} = {value}" for name, value in options.items())
        op.execute(f"ALTER TABLE haulier.{table} SET ({given})")


def downgrade() -> None:
    for table, options in _STORAGE.items():
        op.execute(f"ALTER TABLE haulier.{table} RESET ({', '.join(options)})")
    _drop("jobs", "jobs_due_idx", "jobs_under_way_idx")
    _index("jobs", "jobs_due_idx", ["not_before"], _JOBS)
    _drop("batches", "batches_due_idx", "batches_waiting_idx", "batches_ending_idx")
    _index("batches", "batches_due_idx", ["not_before"], _DUE)
    _index(
        "batches",
        "batches_waiting_idx",
        [*_LANE, "priority", "producer", "not_before", "shard"],
        _WAITING,
    )
    op.drop_column("batches", "ready_at", schema="haulier")
