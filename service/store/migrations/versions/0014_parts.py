"""parts of jobs, which travel in batches, alone or together

Older code cannot work on this schema: stop its processes first.
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_PARTS = """
CREATE TABLE haulier.parts (
  id UUID NOT NULL,
  job_id UUID NOT NULL,
  batch_id UUID,
  parent_id UUID,
  state VARCHAR(16) NOT NULL,
  shard BIGINT NOT NULL,
  attempt BIGINT DEFAULT '1' NOT NULL,
  account TEXT NOT NULL,
  endpoint TEXT NOT NULL,
  model TEXT NOT NULL,
  producer TEXT NOT NULL,
  priority BIGINT DEFAULT '0' NOT NULL,
  input_blob TEXT NOT NULL,
  manifest_blob TEXT,
  manifest BYTEA,
  bytes BIGINT NOT NULL,
  requests BIGINT NOT NULL,
  succeeded BIGINT DEFAULT '0' NOT NULL,
  dead BIGINT DEFAULT '0' NOT NULL,
  carried BIGINT DEFAULT '0' NOT NULL,
  final_lines JSONB,
  prompt_tokens BIGINT DEFAULT '0' NOT NULL,
  completion_tokens BIGINT DEFAULT '0' NOT NULL,
  total_tokens BIGINT DEFAULT '0' NOT NULL,
  settle_order BIGINT,
  renamed BOOLEAN,
  poison BIGINT DEFAULT '0' NOT NULL,
  failed_first UUID,
  company UUID,
  patient_until TIMESTAMP WITH TIME ZONE,
  created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  ready_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
  finished_at TIMESTAMP WITH TIME ZONE,
  CONSTRAINT parts_pkey PRIMARY KEY (id),
  CONSTRAINT parts_state_check CHECK (state IN ('settled', 'travelling', 'waiting')),
  CONSTRAINT parts_manifest_check CHECK (num_nonnulls(manifest, manifest_blob) = 1),
  CONSTRAINT parts_travelling_check CHECK (state <> 'travelling' OR batch_id IS NOT NULL),
  CONSTRAINT parts_waiting_check CHECK (state <> 'waiting' OR batch_id IS NULL),
  CONSTRAINT parts_finished_check CHECK ((finished_at IS NOT NULL) = (state = 'settled')),
  CONSTRAINT parts_conservation_check CHECK (
    (state <> 'settled' AND succeeded = 0 AND dead = 0 AND carried = 0)
    OR (state = 'settled' AND requests = succeeded + dead + carried)),
  CONSTRAINT parts_job_id_fkey FOREIGN KEY (job_id)
    REFERENCES haulier.jobs (id) ON DELETE CASCADE
)
"""

_INDEXES = (
    "CREATE INDEX parts_waiting_idx ON haulier.parts (account, endpoint, model, priority, producer,"
    " ready_at, shard) WHERE state = 'waiting'",
    "CREATE INDEX parts_job_id_idx ON haulier.parts (job_id, shard, created_at, id)",
    "CREATE INDEX parts_batch_id_idx ON haulier.parts (batch_id)",
    "CREATE INDEX parts_company_idx ON haulier.parts (company) WHERE company IS NOT NULL",
    "CREATE INDEX parts_failed_first_idx ON haulier.parts (failed_first)"
    " WHERE failed_first IS NOT NULL",
    "CREATE INDEX parts_divided_idx ON haulier.parts (parent_id) WHERE company IS NOT NULL",
)

_WAITS = "state = 'queued' AND admitted_at IS NULL AND parked_at IS NULL"
_OPEN = "state IN ('created', 'ended', 'queued', 'uploaded')"

# A batch becomes a part of the same id, in that batch. What was not let in yet has no batch.
_FROM_BATCHES = f"""
INSERT INTO haulier.parts (
  id, job_id, batch_id, parent_id, state, shard, attempt, account, endpoint, model, producer,
  priority, input_blob, manifest_blob, bytes, requests, succeeded, dead, carried, final_lines,
  prompt_tokens, completion_tokens, total_tokens, settle_order, renamed, poison, failed_first,
  company,
  created_at, ready_at, finished_at)
SELECT b.id, b.job_id, CASE WHEN NOT b.waits THEN b.id END, b.parent_id,
  CASE WHEN b.waits THEN 'waiting' WHEN b.{_OPEN} THEN 'travelling' ELSE 'settled' END,
  b.shard, b.attempt, b.account, j.endpoint, b.model, j.producer, b.priority, b.input_blob,
  b.manifest_blob, b.bytes, b.requests, b.succeeded, b.dead, b.carried, b.outcome,
  b.prompt_tokens, b.completion_tokens, b.total_tokens, b.settle_order,
  CASE WHEN b.attempt > 1 OR b.input_file_id IS NOT NULL THEN false END, b.poison,
  CASE WHEN b.poison > 0 THEN first.id END, CASE WHEN b.poison > 0 THEN b.id END,
  b.created_at, greatest(b.ready_at, b.not_before), b.finished_at
FROM (SELECT *, {_WAITS} AS waits FROM haulier.batches) b
JOIN haulier.jobs j ON j.id = b.job_id
LEFT JOIN LATERAL (
  SELECT f.id FROM haulier.batches f
  WHERE b.poison > 0 AND f.job_id = b.job_id AND f.shard = b.shard AND f.parent_id IS NULL
  ORDER BY f.created_at LIMIT 1) first ON true
"""  # noqa: S608  constant words

# A job whose requests were known when it was stored has its parts at once.
_FROM_PLANS = """
INSERT INTO haulier.parts (
  id, job_id, state, shard, account, endpoint, model, producer, priority, input_blob,
  manifest_blob, bytes, requests, created_at)
SELECT gen_random_uuid(), j.id, 'waiting', piece.number - 1, j.account, j.endpoint,
  piece.shard ->> 'model', j.producer, j.priority, piece.shard ->> 'input_blob',
  piece.shard ->> 'manifest_blob', (piece.shard ->> 'bytes')::bigint,
  (piece.shard ->> 'requests')::bigint, j.created_at
FROM haulier.jobs j, jsonb_array_elements(j.plan) WITH ORDINALITY AS piece (shard, number)
WHERE j.state = 'accepted'
"""

_RUNNING = """
WITH moved AS (
  UPDATE haulier.jobs SET state = 'running', started_at = now(),
    open_batches = jsonb_array_length(plan), lease = NULL, leased_until = NULL,
    dispatched_at = NULL, parked_at = NULL, tries = 0, failures = 0, faults = 0
  WHERE state = 'accepted' AND plan IS NOT NULL
  RETURNING id, total, open_batches)
INSERT INTO haulier.events (job_id, source, target, detail)
SELECT id, 'accepted', 'running', jsonb_build_object('parts', open_batches, 'requests', total)
FROM moved
"""

# What waits in a cancelled job is to end: each part in a batch of its own.
_CANCELLED = """
WITH ending AS (
  SELECT p.*, gen_random_uuid() AS batch, j.cancel_requested_at FROM haulier.parts p
  JOIN haulier.jobs j ON j.id = p.job_id
  WHERE p.state = 'waiting' AND j.cancel_requested_at IS NOT NULL
), made AS (
  INSERT INTO haulier.batches (id, state, account, endpoint, producer, priority, model, bytes,
    requests, ending, cancelled_at)
  SELECT batch, 'queued', account, endpoint, producer, priority, model, bytes, requests,
    'cancelled', cancel_requested_at FROM ending)
UPDATE haulier.parts p SET state = 'travelling', batch_id = ending.batch
FROM ending WHERE ending.id = p.id
"""

_SEALED = f"""
UPDATE haulier.batches b SET sealed = true, endpoint = p.endpoint, producer = p.producer,
  failed_first = p.failed_first,
  cancelled_at = CASE WHEN b.{_OPEN} THEN j.cancel_requested_at END
FROM haulier.parts p JOIN haulier.jobs j ON j.id = p.job_id WHERE p.id = b.id
"""  # noqa: S608  constant words

_GONE = (
    "job_id",
    "parent_id",
    "shard",
    "attempt",
    "admitted_at",
    "input_blob",
    "manifest_blob",
    "outcome",
    "settle_order",
    "ready_at",
)

_OLD_INDEXES = (
    "CREATE INDEX batches_due_idx ON haulier.batches (state, account, endpoint, model, priority)"
    f" WHERE parked_at IS NULL AND {_OPEN} AND (state <> 'queued' OR admitted_at IS NOT NULL)",
    "CREATE INDEX batches_waiting_idx ON haulier.batches (account, endpoint, model, priority,"
    f" producer, ready_at, shard) WHERE {_WAITS}",
    "CREATE INDEX batches_admitted_idx ON haulier.batches (account, endpoint, model)"
    " WHERE admitted_at IS NOT NULL AND parked_at IS NULL"
    " AND state IN ('queued', 'uploaded', 'created')",
    "CREATE INDEX batches_job_id_idx ON haulier.batches (job_id, shard, id)",
)


_RENAMED = (
    ("jobs", "open_batches", "open_parts"),
    ("jobs", "settled_batches", "settled_parts"),
    ("dead_letters", "batch_id", "part_id"),
)


def _rename(table: str, old: str, new: str) -> None:
    """Rename a column, and the constraint that Postgres 18 names after it."""
    op.execute(f"ALTER TABLE haulier.{table} RENAME {old} TO {new}")
    was, now = f"{table}_{old}_not_null", f"{table}_{new}_not_null"
    op.execute(
        "DO $$ BEGIN IF EXISTS (SELECT FROM pg_constraint WHERE conname = "
        f"'{was}' AND conrelid = 'haulier.{table}'::regclass) THEN"
        f" ALTER TABLE haulier.{table} RENAME CONSTRAINT {was} TO {now}; END IF; END $$"
    )


def upgrade() -> None:
    op.execute(_PARTS)
    op.execute(_FROM_BATCHES)
    op.execute(_FROM_PLANS)
    op.execute(_RUNNING)
    # Events: of a job, or of a batch.
    op.execute("ALTER TABLE haulier.events ALTER job_id DROP NOT NULL")
    op.execute(
        "UPDATE haulier.events e SET batch_id = NULL FROM haulier.parts p"
        " WHERE p.id = e.batch_id AND p.batch_id IS NULL"
    )
    op.execute(f"DELETE FROM haulier.batches WHERE {_WAITS}")  # noqa: S608  constant words
    op.execute(
        "ALTER TABLE haulier.events"
        " ADD CONSTRAINT events_subject_check CHECK (num_nonnulls(job_id, batch_id) > 0),"
        " ADD CONSTRAINT events_batch_id_fkey FOREIGN KEY (batch_id)"
        " REFERENCES haulier.batches (id) ON DELETE CASCADE"
    )
    op.execute(
        "CREATE INDEX events_batch_id_idx ON haulier.events (batch_id, id)"
        " WHERE batch_id IS NOT NULL"
    )
    # Batches: what Together holds, and nothing of the jobs.
    op.execute(
        "ALTER TABLE haulier.batches ADD sealed BOOLEAN DEFAULT false NOT NULL,"
        " ADD failed_first UUID, ADD parts BIGINT DEFAULT '1' NOT NULL,"
        " ADD renamed BOOLEAN DEFAULT false NOT NULL,"
        " ADD cancelled_at TIMESTAMP WITH TIME ZONE"
    )
    op.execute(_SEALED)
    op.execute("DROP INDEX haulier.batches_due_idx, haulier.batches_waiting_idx")
    op.execute("DROP INDEX haulier.batches_admitted_idx, haulier.batches_job_id_idx")
    op.execute("ALTER TABLE haulier.batches DROP CONSTRAINT batches_conservation_check")
    for column in _GONE:
        op.execute(f"ALTER TABLE haulier.batches DROP {column}")
    op.execute(
        "ALTER TABLE haulier.batches ADD CONSTRAINT batches_conservation_check"
        f" CHECK ({_OPEN} OR requests = succeeded + dead + carried)"
    )
    op.execute(
        "CREATE INDEX batches_due_idx ON haulier.batches (state, account, endpoint, model,"
        f" priority) WHERE parked_at IS NULL AND {_OPEN}"
    )
    op.execute(
        "CREATE INDEX batches_under_way_idx ON haulier.batches (account, endpoint, model)"
        " WHERE parked_at IS NULL AND (state IN ('uploaded', 'created')"
        " OR (state = 'queued' AND failures = 0))"
    )
    op.execute(
        "CREATE INDEX batches_group_idx ON haulier.batches (account, endpoint, model, priority,"
        " producer, created_at)"
    )
    # Jobs.
    op.execute("ALTER TABLE haulier.jobs DROP plan")
    for table, old, new in _RENAMED:
        _rename(table, old, new)
    op.execute(_CANCELLED)
    for index in _INDEXES:
        op.execute(index)
    # At the end: while checks are deferred, no table can be altered.
    op.execute(
        "ALTER TABLE haulier.parts ADD CONSTRAINT parts_batch_id_fkey FOREIGN KEY (batch_id)"
        " REFERENCES haulier.batches (id) DEFERRABLE INITIALLY DEFERRED"
    )
    op.execute(
        "ALTER TABLE haulier.parts SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02)"
    )
    op.execute("INSERT INTO haulier.schema_floor (revision) VALUES ('0014')")


def downgrade() -> None:
    """Only of an empty database: batches that several jobs share are nothing to older code."""
    op.execute(
        "DO $$ BEGIN IF EXISTS (SELECT FROM haulier.parts) THEN"
        " RAISE 'there are parts, of which older versions know nothing'; END IF; END $$"
    )
    op.execute("DELETE FROM haulier.schema_floor WHERE revision = '0014'")
    op.execute("DROP TABLE haulier.parts")
    for table, old, new in _RENAMED:
        _rename(table, new, old)
    op.execute("ALTER TABLE haulier.jobs ADD plan JSONB")
    op.execute("DROP INDEX haulier.batches_due_idx, haulier.batches_under_way_idx")
    op.execute("DROP INDEX haulier.batches_group_idx, haulier.events_batch_id_idx")
    op.execute("ALTER TABLE haulier.events DROP CONSTRAINT events_subject_check")
    op.execute("ALTER TABLE haulier.events DROP CONSTRAINT events_batch_id_fkey")
    op.execute("ALTER TABLE haulier.events ALTER job_id SET NOT NULL")
    op.execute("ALTER TABLE haulier.batches DROP CONSTRAINT batches_conservation_check")
    for column in ("sealed", "failed_first", "parts", "renamed", "cancelled_at"):
        op.execute(f"ALTER TABLE haulier.batches DROP {column}")
    op.execute(
        "ALTER TABLE haulier.batches"
        " ADD job_id UUID NOT NULL CONSTRAINT batches_job_id_fkey"
        " REFERENCES haulier.jobs (id) ON DELETE CASCADE,"
        " ADD parent_id UUID, ADD shard BIGINT NOT NULL,"
        " ADD attempt BIGINT DEFAULT '1' NOT NULL,"
        " ADD admitted_at TIMESTAMP WITH TIME ZONE,"
        " ADD input_blob TEXT NOT NULL, ADD manifest_blob TEXT NOT NULL, ADD outcome JSONB,"
        " ADD settle_order BIGINT,"
        " ADD ready_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,"
        f" ADD CONSTRAINT batches_conservation_check CHECK (({_OPEN} AND succeeded = 0"
        f" AND dead = 0 AND carried = 0) OR (NOT {_OPEN}"
        " AND requests = succeeded + dead + carried))"
    )
    for index in _OLD_INDEXES:
        op.execute(index)
