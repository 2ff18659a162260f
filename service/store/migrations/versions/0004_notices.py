"""deliveries by endpoint, with leases"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_PENDING = sa.text("delivered_at IS NULL AND parked_at IS NULL")


def _add(name: str, kind: sa.types.TypeEngine[Any], *, nullable: bool = True) -> None:
    op.add_column("deliveries", sa.Column(name, kind, nullable=nullable), schema="haulier")


def upgrade() -> None:
    # Nobody has written any yet: `notify` was refused.
    _add("endpoint", sa.Text(), nullable=False)
    _add("lease", sa.Uuid())
    _add("leased_until", sa.DateTime(timezone=True))
    _add("first_tried_at", sa.DateTime(timezone=True))
    op.create_check_constraint(
        op.f("deliveries_lease_check"),
        "deliveries",
        "(lease IS NULL) = (leased_until IS NULL)",
        schema="haulier",
    )
    op.drop_index("deliveries_due_idx", "deliveries", schema="haulier")
    op.create_index(
        "deliveries_due_idx",
        "deliveries",
        ["endpoint", "not_before"],
        schema="haulier",
        postgresql_where=_PENDING,
    )
    op.create_index(
        "deliveries_leased_idx",
        "deliveries",
        ["endpoint", "leased_until"],
        schema="haulier",
        postgresql_where=sa.text("lease IS NOT NULL"),
    )
    op.drop_index("deliveries_job_id_idx", "deliveries", schema="haulier")
    op.create_index(
        "deliveries_job_id_idx", "deliveries", ["job_id", "created_at", "id"], schema="haulier"
    )


def downgrade() -> None:
    op.drop_index("deliveries_job_id_idx", "deliveries", schema="haulier")
    op.create_index("deliveries_job_id_idx", "deliveries", ["job_id"], schema="haulier")
    op.drop_index("deliveries_leased_idx", "deliveries", schema="haulier")
    op.drop_index("deliveries_due_idx", "deliveries", schema="haulier")
    op.create_index(
        "deliveries_due_idx",
        "deliveries",
        ["not_before"],
        schema="haulier",
        postgresql_where=_PENDING,
    )
    op.drop_constraint(op.f("deliveries_lease_check"), "deliveries", schema="haulier")
    for name in ("first_tried_at", "leased_until", "lease", "endpoint"):
        op.drop_column("deliveries", name, schema="haulier")
