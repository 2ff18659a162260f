"""a floor: the oldest code that may work on the database"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "schema_floor",
        sa.Column("revision", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("schema_floor_pkey")),
        schema="haulier",
    )


def downgrade() -> None:
    op.drop_table("schema_floor", schema="haulier")
