"""processes that take nothing new, and accounts that nothing is sent to, as an operator asked"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("draining_since", "drained_at"):
        op.add_column("heartbeats", sa.Column(name, sa.DateTime(timezone=True)), schema="haulier")
    op.add_column("accounts", sa.Column("paused_at", sa.DateTime(timezone=True)), schema="haulier")
    op.add_column("accounts", sa.Column("pause_reason", sa.Text()), schema="haulier")


def downgrade() -> None:
    op.drop_column("accounts", "pause_reason", schema="haulier")
    op.drop_column("accounts", "paused_at", schema="haulier")
    for name in ("drained_at", "draining_since"):
        op.drop_column("heartbeats", name, schema="haulier")
