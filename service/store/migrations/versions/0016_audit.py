"""audit: what operators did, which nobody can change"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_REFUSE = """
CREATE FUNCTION haulier.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% of haulier.%: the table can only be added to', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$
"""
# For each statement: so TRUNCATE is refused as well, and what would find no row.
_TRIGGER = """
CREATE TRIGGER audit_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON haulier.audit
FOR EACH STATEMENT EXECUTE FUNCTION haulier.refuse_change()
"""


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("credential", sa.Text()),
        sa.Column("origin", sa.Text()),
        sa.Column("request_id", sa.Text()),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("before", postgresql.JSONB()),
        sa.Column("after", postgresql.JSONB()),
        sa.PrimaryKeyConstraint("id", name=op.f("audit_pkey")),
        schema="haulier",
    )
    op.create_index("audit_actor_idx", "audit", ["actor", "id"], schema="haulier")
    op.create_index(
        "audit_object_idx",
        "audit",
        ["object", "id"],
        postgresql_ops={"object": "text_pattern_ops"},
        schema="haulier",
    )
    op.execute(_REFUSE)
    op.execute("REVOKE ALL ON FUNCTION haulier.refuse_change() FROM PUBLIC")
    op.execute(_TRIGGER)


def downgrade() -> None:
    op.drop_table("audit", schema="haulier")
    op.execute("DROP FUNCTION haulier.refuse_change()")
