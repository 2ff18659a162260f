"""checks, canaries and budgets: what answers must pass, what waits, and what may be spent"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


# The fields that a spec may have. Whether they are good says split, with the code that reads every
# other spec.
_FIELDS = """
DO $$
DECLARE
    one regprocedure;
    old text;
    new text;
BEGIN
    FOREACH one IN ARRAY ARRAY['haulier.enqueue_problem(jsonb)', 'haulier.enqueue(jsonb)'] LOOP
        old := pg_get_functiondef(one);
        new := replace(old, '{before}', '{after}');
        IF old = new THEN
            RAISE EXCEPTION '% is not as it was made', one;
        END IF;
        EXECUTE new;
    END LOOP;
END $$
"""
_BEFORE = "''metadata'', ''notify''"
_AFTER = f"{_BEFORE}, ''check'', ''canary'', ''canary_failures'', ''max_cost''"


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("answer_check", postgresql.JSONB()),
        sa.Column("canary", sa.BigInteger()),
        sa.Column("canary_failures", sa.BigInteger()),
        sa.Column("held", sa.String(16)),
        sa.Column("held_at", sa.DateTime(timezone=True)),
        sa.Column("max_cost", sa.Numeric()),
        sa.Column("short_reason", sa.Text()),
    ]


def _of_producers() -> list[sa.Column[Any]]:
    return [
        sa.Column("usd_per_day", sa.Numeric()),
        sa.Column("usd_per_month", sa.Numeric()),
        sa.Column("short_until", sa.DateTime(timezone=True)),
        sa.Column("short_reason", sa.Text()),
    ]


def upgrade() -> None:
    op.execute(_FIELDS.format(before=_BEFORE, after=_AFTER))
    for column in _columns():
        op.add_column("jobs", column, schema="haulier")
    for column in _of_producers():
        op.add_column("producers", column, schema="haulier")
    op.create_check_constraint(
        op.f("producers_budgets_check"),
        "producers",
        "usd_per_day > 0 AND usd_per_month > 0",
        schema="haulier",
    )
    op.create_index(
        "jobs_max_cost_idx",
        "jobs",
        ["id"],
        schema="haulier",
        postgresql_where=sa.text("max_cost IS NOT NULL AND finished_at IS NULL"),
    )


def downgrade() -> None:
    op.execute(_FIELDS.format(before=_AFTER, after=_BEFORE))
    for column in _columns():
        op.drop_column("jobs", column.name, schema="haulier")
    for column in _of_producers():
        op.drop_column("producers", column.name, schema="haulier")
