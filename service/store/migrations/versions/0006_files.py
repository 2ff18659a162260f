"""files that are uploaded by themselves"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("producer", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("upload_digest", sa.LargeBinary(), nullable=False),
        sa.Column("announced_sha256", sa.Text(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("lines", sa.BigInteger(), nullable=True),
        sa.Column("blob", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "num_nulls(blob, sha256, bytes, lines) IN (0, 4)", name=op.f("files_whole_check")
        ),
        sa.ForeignKeyConstraint(
            ["producer"], ["haulier.producers.name"], name=op.f("files_producer_fkey")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("files_pkey")),
        schema="haulier",
    )
    op.create_index(
        "files_producer_idx", "files", ["producer", "created_at", "id"], schema="haulier"
    )
    op.create_index(
        "files_sha256_idx",
        "files",
        ["producer", "sha256"],
        schema="haulier",
        postgresql_where=sa.text("sha256 IS NOT NULL AND deleted_at IS NULL"),
    )
    op.create_index(
        "files_gone_idx",
        "files",
        ["created_at"],
        schema="haulier",
        postgresql_where=sa.text("blob IS NULL OR deleted_at IS NOT NULL"),
    )
    op.create_index(
        "jobs_of_files_idx",
        "jobs",
        ["producer", "created_at", "id"],
        schema="haulier",
        postgresql_where=sa.text("input LIKE 'haulier-file:%'"),
    )


def downgrade() -> None:
    op.drop_index("jobs_of_files_idx", "jobs", schema="haulier")
    op.drop_table("files", schema="haulier")
