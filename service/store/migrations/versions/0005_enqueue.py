"""haulier.enqueue: submissions inside a producer's own transaction"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# What can be said of a spec without reading its requests. The rest is for split, with the code
# that reads every other spec. A number out of range or a deep nest would be stored, and then break
# whoever shows the job.
_PROBLEM = """
CREATE FUNCTION haulier.enqueue_problem(spec jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known constant text[] := ARRAY['endpoint', 'requests', 'input', 'idempotency_key', 'account',
                                   'max_attempts', 'priority', 'metadata', 'notify'];
    key text := spec->>'idempotency_key';
    metadata jsonb := coalesce(spec->'metadata', '{}');
    notify jsonb := coalesce(spec->'notify', '[]');
    has_requests boolean := coalesce(jsonb_typeof(spec->'requests'), 'null') <> 'null';
    has_input boolean := coalesce(jsonb_typeof(spec->'input'), 'null') <> 'null';
BEGIN
    RETURN CASE
    WHEN spec IS NULL OR jsonb_typeof(spec) <> 'object'
        THEN 'the spec must be a JSON object'
    WHEN octet_length(spec::text) > 32000000
        THEN 'a spec may have 32,000,000 bytes as text; point `input` at the requests'
    WHEN spec - known <> '{}'
        THEN 'there is no such field: ' || (SELECT string_agg(quote_literal(left(name, 100)), ', ')
                                            FROM jsonb_object_keys(spec - known) AS name)
    WHEN jsonb_typeof(spec->'endpoint') IS DISTINCT FROM 'string'
         OR length(spec->>'endpoint') NOT BETWEEN 1 AND 255
        THEN '`endpoint` must be given, such as "/v1/chat/completions"'
    WHEN has_requests = has_input
        THEN 'give `requests` or `input`, one of them'
    WHEN has_requests AND jsonb_typeof(spec->'requests') <> 'array'
        THEN '`requests` must be an array'
    WHEN has_input AND jsonb_typeof(spec->'input') <> 'string'
        THEN '`input` must be a URL'
    WHEN has_input AND spec->>'input' !~* '^(s3|file):'
        THEN '`input` must be an s3:// or file:// URL'
    WHEN key IS NOT NULL
         AND (jsonb_typeof(spec->'idempotency_key') <> 'string' OR length(key) NOT BETWEEN 1 AND 255)
        THEN '`idempotency_key` must be a string of 1 to 255 characters'
    WHEN spec ? 'account'
         AND (jsonb_typeof(spec->'account') <> 'string' OR length(spec->>'account') > 255)
        THEN '`account` must be the name of an account'
    WHEN spec ? 'max_attempts'
         AND NOT (jsonb_typeof(spec->'max_attempts') = 'number'
                  AND spec->>'max_attempts' ~ '^([1-9][0-9]?|100)$')
        THEN '`max_attempts` must be a whole number from 1 to 100'
    WHEN spec ? 'priority'
         AND NOT (jsonb_typeof(spec->'priority') = 'number'
                  AND spec->>'priority' ~ '^-?([0-9]{1,3}|1000)$')
        THEN '`priority` must be a whole number from -1000 to 1000'
    WHEN jsonb_typeof(metadata) <> 'object'
        THEN '`metadata` must be an object'
    WHEN octet_length(metadata::text) > 16384
        THEN '`metadata` may have 16,384 bytes as text'
    WHEN jsonb_path_exists(metadata, 'strict $.**{100}')
        THEN '`metadata` nests too deep'
    WHEN jsonb_path_exists(
            metadata, 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))')
        THEN '`metadata` holds a number that is out of range'
    WHEN jsonb_typeof(notify) <> 'array'
         OR jsonb_path_exists(notify, 'strict $[*] ? (@.type() != "object")')
        THEN '`notify` must be an array of objects'
    WHEN octet_length(notify::text) > 32768 OR jsonb_path_exists(notify, 'strict $.**{6}')
        THEN '`notify` is too large or nests too deep'
    END;
END $$
"""

# Everything by its full name: it runs with its owner's rights. Whose job it is says the role that
# logged in, which no SET ROLE changes.
_ENQUEUE = """
CREATE FUNCTION haulier.enqueue(spec jsonb) RETURNS uuid
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


def upgrade() -> None:
    op.create_table(
        "enqueued",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["haulier.jobs.id"],
            name=op.f("enqueued_job_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("enqueued_pkey")),
        schema="haulier",
    )
    op.execute(_PROBLEM)
    op.execute(_ENQUEUE)
    # Until an operator grants it, it is the owner's alone.
    op.execute("REVOKE ALL ON FUNCTION haulier.enqueue(jsonb) FROM PUBLIC")
    op.execute("REVOKE ALL ON FUNCTION haulier.enqueue_problem(jsonb) FROM PUBLIC")


def downgrade() -> None:
    # The requests of a job that was not split yet are nowhere else.
    op.execute(
        "DO $$ BEGIN LOCK TABLE haulier.enqueued; IF EXISTS (SELECT FROM haulier.enqueued) THEN"
        " RAISE EXCEPTION 'there are enqueued jobs that no worker has split yet';"
        " END IF; END $$"
    )
    op.execute("DROP FUNCTION haulier.enqueue(jsonb)")
    op.execute("DROP FUNCTION haulier.enqueue_problem(jsonb)")
    op.drop_table("enqueued", schema="haulier")
