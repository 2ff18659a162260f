"""what processes measure, and the scratch space of workers"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "measured",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("up_to", sa.Float(), nullable=False),
        sa.Column("count", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("seconds", sa.Float(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("name", "labels", "up_to", name=op.f("measured_pkey")),
        schema="haulier",
    )
    op.add_column("heartbeats", sa.Column("scratch_free", sa.BigInteger()), schema="haulier")


def downgrade() -> None:
    op.drop_column("heartbeats", "scratch_free", schema="haulier")
    op.drop_table("measured", schema="haulier")
