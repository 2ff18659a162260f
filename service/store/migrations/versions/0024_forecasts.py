"""when jobs will be done: what was said of each, the history of lanes, and how much came true"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_LANE = ("account", "endpoint", "model")


def upgrade() -> None:
    instant = sa.DateTime(timezone=True)
    op.create_table(
        "forecasts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.Uuid()),
        *(sa.Column(name, sa.Text(), nullable=False) for name in _LANE),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("requests", "ahead")),
        sa.Column("since", instant, nullable=False),
        sa.Column("p50", instant),
        sa.Column("p90", instant),
        sa.Column("basis", sa.BigInteger()),
        sa.Column("code", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("look_at", instant, nullable=False),
        *(sa.Column(name, instant) for name in ("said_p90", "half_at", "half_p90", "ended_at")),
        sa.CheckConstraint("p50 <= p90", name=op.f("forecasts_order_check")),
        sa.CheckConstraint(
            "(job_id IS NULL) = (ended_at IS NOT NULL)", name=op.f("forecasts_ended_check")
        ),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["haulier.jobs.id"],
            name=op.f("forecasts_job_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("forecasts_pkey")),
        schema="haulier",
    )
    open_ones = sa.text("job_id IS NOT NULL")
    op.create_index(
        "forecasts_job_id_key",
        "forecasts",
        ["job_id", *_LANE],
        unique=True,
        schema="haulier",
        postgresql_where=open_ones,
    )
    op.create_index(
        "forecasts_history_idx",
        "forecasts",
        [*_LANE, "ended_at"],
        schema="haulier",
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    op.create_index(
        "forecasts_due_idx",
        "forecasts",
        ["look_at"],
        schema="haulier",
        postgresql_where=open_ones,
    )
    op.create_table(
        "forecast_coverage",
        *(sa.Column(name, sa.Text(), nullable=False) for name in _LANE),
        *(
            sa.Column(name, sa.Float(), server_default="1", nullable=False)
            for name in ("stretch", "half_stretch")
        ),
        *(
            sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
            for name in ("ended", "in_time", "half_ended", "half_in_time")
        ),
        sa.PrimaryKeyConstraint(*_LANE, name=op.f("forecast_coverage_pkey")),
        schema="haulier",
    )


def downgrade() -> None:
    op.drop_table("forecast_coverage", schema="haulier")
    op.drop_table("forecasts", schema="haulier")
