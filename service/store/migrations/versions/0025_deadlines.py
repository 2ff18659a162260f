"""deadlines: when a job should be done, and how it stands to that; a lane is probed by a probe"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
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
_BEFORE = "''canary_failures'', ''max_cost''"
_AFTER = f"{_BEFORE}, ''deadline'', ''on_deadline''"


def _columns() -> list[sa.Column[Any]]:
    instants = ("deadline", "deadline_look_at", "deadline_at_risk_since", "deadline_missed_at")
    return [
        *(sa.Column(name, sa.DateTime(timezone=True)) for name in instants),
        sa.Column("on_deadline", sa.String(16)),
        sa.Column("raised_priority", sa.BigInteger()),
    ]


# A canary is what a job sends first. What finds out how a lane is has a word of its own.
_PHASE = """
UPDATE haulier.lanes SET health = jsonb_set(health, '{{phase}}', '"{after}"')
WHERE health ->> 'phase' = '{before}'
"""


def upgrade() -> None:
    # Older code asks for the column by its old name: such processes end instead of failing.
    op.execute("INSERT INTO haulier.schema_floor (revision) VALUES ('0025')")
    op.alter_column("batches", "canary", new_column_name="probe", schema="haulier")
    op.execute(_PHASE.format(before="canary", after="probe"))
    op.execute(_FIELDS.format(before=_BEFORE, after=_AFTER))
    for column in _columns():
        op.add_column("jobs", column, schema="haulier")
    op.create_check_constraint(
        op.f("jobs_deadline_check"),
        "jobs",
        "deadline_look_at IS NULL OR finished_at IS NULL",
        schema="haulier",
    )
    op.create_index(
        "jobs_deadline_look_at_idx",
        "jobs",
        ["deadline_look_at"],
        schema="haulier",
        postgresql_where=sa.text("deadline_look_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.execute("DELETE FROM haulier.schema_floor WHERE revision = '0025'")
    op.execute(_PHASE.format(before="probe", after="canary"))
    op.alter_column("batches", "probe", new_column_name="canary", schema="haulier")
    op.execute(_FIELDS.format(before=_AFTER, after=_BEFORE))
    op.drop_index("jobs_deadline_look_at_idx", "jobs", schema="haulier")
    op.drop_constraint(op.f("jobs_deadline_check"), "jobs", schema="haulier")
    for column in _columns():
        op.drop_column("jobs", column.name, schema="haulier")
