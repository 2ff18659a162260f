"""chores that are asked for"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    asked_at = sa.Column("asked_at", sa.DateTime(timezone=True))
    op.add_column("chores", asked_at, schema="haulier")


def downgrade() -> None:
    op.drop_column("chores", "asked_at", schema="haulier")
