"""jobs that need a person: an index that holds only those"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "jobs_need_idx",
        "jobs",
        ["id"],
        schema="haulier",
        postgresql_where=sa.text(
            "finished_at IS NULL AND"
            " (parked_at IS NOT NULL OR held_at IS NOT NULL OR short_reason IS NOT NULL)"
        ),
    )


def downgrade() -> None:
    op.drop_index("jobs_need_idx", "jobs", schema="haulier")
