"""producers that are disabled, and bounds on what a producer stores"""

from datetime import datetime

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# As 0005 made it, but for the comment that `upgrade` fills in.
_ENQUEUE = """
CREATE OR REPLACE FUNCTION haulier.enqueue(spec jsonb) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who text := (SELECT p.name FROM haulier.producers AS p WHERE p.name = session_user);
    problem text := haulier.enqueue_problem(spec);
    key text := spec->>'idempotency_key';
    content text;
    new_id uuid := gen_random_uuid();
    held record;
BEGIN
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'haulier.enqueue: %', problem USING
            ERRCODE = 'invalid_parameter_value',
            HINT = 'The fields of a batch spec are those that POST /v1/jobs takes as JSON.';
    END IF;
    IF who IS NULL AND pg_has_role(session_user, current_user, 'MEMBER') THEN
        who := 'default';
    END IF;
    IF who IS NULL THEN
        RAISE EXCEPTION 'haulier.enqueue: there is no producer named after the role %',
            quote_ident(session_user) USING
            ERRCODE = 'insufficient_privilege',
            HINT = format('Add it: haulier producer add %s', quote_ident(session_user));
    END IF;
    -- disabled
    IF key IS NOT NULL THEN
        content := 'enqueue:' || encode(
            sha256(convert_to((spec - 'idempotency_key')::text, 'UTF8')), 'hex');
    END IF;
    LOOP
        INSERT INTO haulier.jobs (id, producer, state, endpoint, account, priority, max_attempts,
                                  metadata, notify, idempotency_key, fingerprint, input)
        VALUES (new_id, who, 'accepted', spec->>'endpoint',
                coalesce(spec->>'account', 'default'),
                coalesce((spec->>'priority')::bigint, 0),
                coalesce((spec->>'max_attempts')::bigint, 3),
                coalesce(spec->'metadata', '{}'), coalesce(spec->'notify', '[]'),
                key, content, spec->>'input')
        ON CONFLICT (producer, idempotency_key) DO NOTHING;
        IF FOUND THEN
            INSERT INTO haulier.enqueued (job_id, spec) VALUES (new_id, spec::text);
            INSERT INTO haulier.events (job_id, target) VALUES (new_id, 'accepted');
            RETURN new_id;
        END IF;
        SELECT job.id, job.fingerprint INTO held FROM haulier.jobs AS job
            WHERE job.producer = who AND job.idempotency_key = key;
        IF held.fingerprint = content THEN
            RETURN held.id;
        ELSIF held.id IS NOT NULL THEN
            RAISE EXCEPTION 'haulier.enqueue: idempotency key % was used for job % with other content',
                quote_literal(key), held.id USING
                ERRCODE = 'unique_violation',
                HINT = 'A key belongs to one content, and to one way in: SQL, HTTP or the queue.';
        END IF;
        -- It was rejected or forgotten in between, and the key is free again.
    END LOOP;
END $$
"""

_DISABLED = """
    IF EXISTS (SELECT FROM haulier.producers AS p
               WHERE p.name = who AND p.disabled_at IS NOT NULL) THEN
        RAISE EXCEPTION 'haulier.enqueue: the producer % is disabled', quote_literal(who) USING
            ERRCODE = 'insufficient_privilege',
            HINT = format('An operator enables it: haulier producer enable %s', quote_ident(who));
    END IF;
"""

_INDEXES = (
    # What counts as stored.
    "CREATE INDEX files_stored_idx ON haulier.files (producer) INCLUDE (bytes)"
    " WHERE blob IS NOT NULL AND discarded_at IS NULL",
    "CREATE INDEX files_announced_idx ON haulier.files (producer, created_at)"
    " WHERE blob IS NULL AND deleted_at IS NULL",
    # What is due to expire, and to be discarded.
    "CREATE INDEX files_renewed_at_idx ON haulier.files (renewed_at)"
    " WHERE blob IS NOT NULL AND deleted_at IS NULL",
    "CREATE INDEX files_deleted_at_idx ON haulier.files (deleted_at)"
    " WHERE blob IS NOT NULL AND deleted_at IS NOT NULL AND discarded_at IS NULL",
)


def _instant(name: str) -> "sa.Column[datetime]":
    return sa.Column(name, sa.DateTime(timezone=True))


def upgrade() -> None:
    op.add_column("producers", _instant("disabled_at"), schema="haulier")
    op.add_column("producers", sa.Column("stored_bytes", sa.BigInteger()), schema="haulier")
    op.create_check_constraint(
        op.f("producers_stored_bytes_check"), "producers", "stored_bytes > 0", schema="haulier"
    )
    op.add_column("files", sa.Column("credential", sa.Text()), schema="haulier")
    # Files that are there already begin their time now.
    renewed_at = sa.Column(
        "renewed_at",
        sa.DateTime(timezone=True),
        server_default=sa.text("now()"),
        nullable=False,
    )
    op.add_column("files", renewed_at, schema="haulier")
    op.add_column("files", _instant("discarded_at"), schema="haulier")
    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("producer", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["file_id"],
            ["haulier.files.id"],
            name=op.f("uploads_file_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("uploads_pkey")),
        schema="haulier",
    )
    op.create_index("uploads_producer_idx", "uploads", ["producer"], schema="haulier")
    op.create_index("uploads_file_id_idx", "uploads", ["file_id"], schema="haulier")
    for index in _INDEXES:
        op.execute(index)
    op.execute(_ENQUEUE.replace("    -- disabled\n", _DISABLED.lstrip("\n")))


def downgrade() -> None:
    op.execute(_ENQUEUE.replace("    -- disabled\n", ""))
    op.drop_table("uploads", schema="haulier")
    # Their indexes go with them.
    for column in ("discarded_at", "renewed_at", "credential"):
        op.drop_column("files", column, schema="haulier")
    op.execute("DROP INDEX IF EXISTS haulier.files_announced_idx")
    op.drop_constraint(op.f("producers_stored_bytes_check"), "producers", schema="haulier")
    for column in ("stored_bytes", "disabled_at"):
        op.drop_column("producers", column, schema="haulier")
