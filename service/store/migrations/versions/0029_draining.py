"""processes that take nothing new, because an operator has asked"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("draining_since", "drained_at"):
        op.add_column("heartbeats", sa.Column(name, sa.DateTime(timezone=True)), schema="haulier")


def downgrade() -> None:
    for name in ("drained_at", "draining_since"):
        op.drop_column("heartbeats", name, schema="haulier")
