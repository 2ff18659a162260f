"""how long the schedulers' ticks take; what is parked, for metrics"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_PARKED = ("batches", "deliveries")


def upgrade() -> None:
    op.create_table(
        "ticks",
        sa.Column("up_to", sa.Float(), nullable=False),
        sa.Column("count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("seconds", sa.Float(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("up_to", name=op.f("ticks_pkey")),
        schema="haulier",
    )
    for table in _PARKED:
        op.create_index(
            f"{table}_parked_at_idx",
            table,
            ["parked_at"],
            schema="haulier",
            postgresql_where=sa.text("parked_at IS NOT NULL"),
        )


def downgrade() -> None:
    for table in _PARKED:
        op.drop_index(f"{table}_parked_at_idx", table, schema="haulier")
    op.drop_table("ticks", schema="haulier")
