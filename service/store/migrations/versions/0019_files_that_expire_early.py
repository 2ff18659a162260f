"""files that expire early: each may say for itself when it goes"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("files", sa.Column("expires_at", sa.TIMESTAMP(timezone=True)), schema="haulier")
    op.create_index(
        "files_expires_at_idx",
        "files",
        ["expires_at"],
        schema="haulier",
        postgresql_where=sa.text(
            "blob IS NOT NULL AND deleted_at IS NULL AND expires_at IS NOT NULL"
        ),
    )


def downgrade() -> None:
    op.drop_index("files_expires_at_idx", "files", schema="haulier")
    op.drop_column("files", "expires_at", schema="haulier")
