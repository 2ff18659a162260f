"""results in notices: whether a notice carries the results of its job"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "deliveries",
        sa.Column("with_results", sa.Boolean(), server_default="false", nullable=False),
        schema="haulier",
    )


def downgrade() -> None:
    op.drop_column("deliveries", "with_results", schema="haulier")
