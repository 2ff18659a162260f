"""what earlier looks at an ended batch saw, and 404s in a row, each counted by itself"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column(
        "batches",
        sa.Column("not_there", sa.BigInteger(), server_default="0", nullable=False),
        schema="haulier",
    )
    op.add_column("batches", sa.Column("unsettled_since", _MOMENT), schema="haulier")
    op.add_column("batches", sa.Column("look", sa.Text()), schema="haulier")
    op.add_column("batches", sa.Column("look_since", _MOMENT), schema="haulier")


def downgrade() -> None:
    for column in ("look_since", "look", "unsettled_since", "not_there"):
        op.drop_column("batches", column, schema="haulier")
