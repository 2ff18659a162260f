"""the console: its sessions"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "console_sessions",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("credential", sa.Text()),
        sa.Column("origin", sa.Text()),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("console_sessions_pkey")),
        schema="haulier",
    )
    op.create_index(
        "console_sessions_expires_at_idx", "console_sessions", ["expires_at"], schema="haulier"
    )


def downgrade() -> None:
    op.drop_table("console_sessions", schema="haulier")
