"""equal faults of ours in a row, which park a row"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TABLES = ("jobs", "batches")


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(
            table,
            sa.Column("faults", sa.BigInteger(), server_default="0", nullable=False),
            schema="haulier",
        )


def downgrade() -> None:
    for table in _TABLES:
        op.drop_column(table, "faults", schema="haulier")
