"""failures by cause: whose they are, and what groups them"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Null in rows of before, and in those that older code still writes.
    op.add_column("dead_letters", sa.Column("producer", sa.Text()), schema="haulier")
    op.add_column("dead_letters", sa.Column("cause", sa.Text()), schema="haulier")
    op.create_index(
        "dead_letters_producer_at_idx",
        "dead_letters",
        ["producer", "at"],
        schema="haulier",
        postgresql_where=sa.text("producer IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("dead_letters_producer_at_idx", "dead_letters", schema="haulier")
    op.drop_column("dead_letters", "cause", schema="haulier")
    op.drop_column("dead_letters", "producer", schema="haulier")
