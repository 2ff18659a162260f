"""private webhooks: for each producer the hosts and networks that its webhooks may go to"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    private = sa.Column("private_webhooks", postgresql.JSONB(), server_default=sa.text("'[]'"))
    op.add_column("producers", private, schema="haulier")


def downgrade() -> None:
    op.drop_column("producers", "private_webhooks", schema="haulier")
