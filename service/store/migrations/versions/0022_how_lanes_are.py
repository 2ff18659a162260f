"""how lanes are: their state, what it rests on, and the batches that find out"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    instant = sa.DateTime(timezone=True)
    state = sa.Column("state", sa.String(16), server_default=sa.text("'healthy'"), nullable=False)
    op.add_column("lanes", state, schema="haulier")
    for name in ("since", "until", "paused_at"):
        op.add_column("lanes", sa.Column(name, instant), schema="haulier")
    op.add_column("lanes", sa.Column("health", postgresql.JSONB()), schema="haulier")
    op.create_check_constraint(
        op.f("lanes_state_check"),
        "lanes",
        "state IN ('healthy', 'probing', 'resting')",
        schema="haulier",
    )
    op.add_column("batches", sa.Column("canary", sa.BigInteger()), schema="haulier")
    op.add_column("parts", sa.Column("outage_since", instant), schema="haulier")


def downgrade() -> None:
    op.drop_column("parts", "outage_since", schema="haulier")
    op.drop_column("batches", "canary", schema="haulier")
    op.drop_constraint(op.f("lanes_state_check"), "lanes", schema="haulier")
    for name in ("health", "paused_at", "until", "since", "state"):
        op.drop_column("lanes", name, schema="haulier")
