"""enqueue: null for an optional field means that it was left out"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_GIVEN = """CASE WHEN jsonb_typeof(spec) = 'object'
        THEN (SELECT coalesce(jsonb_object_agg(field.key, field.value), '{}')
              FROM jsonb_each(spec) AS field
              WHERE field.value <> 'null' OR field.key <> ALL (ARRAY[
                  'requests', 'input', 'idempotency_key', 'account', 'max_attempts', 'priority',
                  'metadata', 'notify']))
        ELSE spec END"""

# As 0015 made it, but that it reads `given`, which `upgrade` and `downgrade` fill in.
_ENQUEUE = """
CREATE OR REPLACE FUNCTION haulier.enqueue(spec jsonb) RETURNS uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given jsonb := -- given;
    who text := (SELECT p.name FROM haulier.producers AS p WHERE p.name = session_user);
    problem text := haulier.enqueue_problem(given);
    key text := given->>'idempotency_key';
    content text;
    as_written text;
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
    IF EXISTS (SELECT FROM haulier.producers AS p
               WHERE p.name = who AND p.disabled_at IS NOT NULL) THEN
        RAISE EXCEPTION 'haulier.enqueue: the producer % is disabled', quote_literal(who) USING
            ERRCODE = 'insufficient_privilege',
            HINT = format('An operator enables it: haulier producer enable %s', quote_ident(who));
    END IF;
    IF key IS NOT NULL THEN
        content := 'enqueue:' || encode(
            sha256(convert_to((given - 'idempotency_key')::text, 'UTF8')), 'hex');
        as_written := 'enqueue:' || encode(
            sha256(convert_to((spec - 'idempotency_key')::text, 'UTF8')), 'hex');
    END IF;
    LOOP
        INSERT INTO haulier.jobs (id, producer, state, endpoint, account, priority, max_attempts,
                                  metadata, notify, idempotency_key, fingerprint, input)
        VALUES (new_id, who, 'accepted', given->>'endpoint',
                coalesce(given->>'account', 'default'),
                coalesce((given->>'priority')::bigint, 0),
                coalesce((given->>'max_attempts')::bigint, 3),
                coalesce(given->'metadata', '{}'), coalesce(given->'notify', '[]'),
                key, content, given->>'input')
        ON CONFLICT (producer, idempotency_key) DO NOTHING;
        IF FOUND THEN
            INSERT INTO haulier.enqueued (job_id, spec) VALUES (new_id, given::text);
            INSERT INTO haulier.events (job_id, target) VALUES (new_id, 'accepted');
            RETURN new_id;
        END IF;
        SELECT job.id, job.fingerprint INTO held FROM haulier.jobs AS job
            WHERE job.producer = who AND job.idempotency_key = key;
        -- Before this version, a null was content of its own.
        IF held.fingerprint IN (content, as_written) THEN
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
    op.execute(_ENQUEUE.replace("-- given", _GIVEN))


def downgrade() -> None:
    op.execute(_ENQUEUE.replace("-- given", "spec"))
