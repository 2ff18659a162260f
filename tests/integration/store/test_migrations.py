"""The migrations against the models, and backwards."""

from collections.abc import Iterator
from hashlib import md5
from uuid import UUID

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from service.rules.admission import Capacity
from service.rules.outcomes import Settle, Split
from service.rules.states import BATCH_STAGES, BatchState, JobState, PartState, Stage
from service.rules.work import Ending
from service.store import engine, jobs, revisions, schema
from service.store.models import SCHEMA, Base, Batch, Part
from service.store.parts import parts_of
from service.store.revive import dead_letters_by_part
from tests.factories import Harness, admit, settlement, shard
from tests.servers import Databases

WHAT_IS_THERE = (
    "SELECT indexdef FROM pg_indexes WHERE schemaname = :schema"
    " UNION ALL SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable,"
    " column_default) FROM information_schema.columns WHERE table_schema = :schema"
    " UNION ALL SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid))"
    " FROM pg_constraint WHERE connamespace = CAST(:schema AS regnamespace)"
)


def described(url: str) -> set[str]:
    """Every index, column and constraint of the tables."""
    connections = engine.create(url)
    with connections.begin() as connection:
        found = set(connection.scalars(text(WHAT_IS_THERE), {"schema": SCHEMA}))
    connections.dispose()
    return {line for line in found if "alembic_version" not in line}


def test_the_migrations_make_what_the_models_say(databases: Databases, database_url: str) -> None:
    url = databases.create_empty()
    connections = engine.create(url)
    with connections.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        Base.metadata.create_all(connection)
    connections.dispose()

    assert described(database_url) == described(url)
    databases.drop(url)


@pytest.mark.parametrize("revision", ["0001", "0003"])
def test_an_upgrade_can_be_taken_back(database_url: str, revision: str) -> None:
    newest = described(database_url)
    with schema._migrating(database_url) as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
        connection.commit()
    assert described(database_url) != newest
    schema.migrate(database_url)
    assert described(database_url) == newest


def test_the_revisions_that_processes_know_are_those_of_alembic() -> None:
    scripts = ScriptDirectory.from_config(schema._config())
    assert revisions.known() == {script.revision for script in scripts.walk_revisions()}
    assert scripts.get_heads() == [max(revisions.known())]


@pytest.mark.parametrize(("floor", "fits"), [(None, True), ("0001", True), ("9999", False)])
def test_code_works_on_a_newer_schema_unless_it_is_below_its_floor(
    database_url: str, floor: str | None, fits: bool
) -> None:
    made = engine.create(database_url)
    db = engine.database(made)
    with db.begin() as session:
        session.execute(text("UPDATE haulier.alembic_version SET version_num = '9999'"))
        session.execute(text("DELETE FROM haulier.schema_floor"))
        if floor is not None:
            session.execute(text("INSERT INTO haulier.schema_floor VALUES (:f)"), {"f": floor})
    assert revisions.is_migrated(db) is fits
    assert revisions.is_too_new(db) is not fits
    made.dispose()


# --- from batches of jobs to parts of jobs ------------------------------------------------------

BEFORE_PARTS = """
INSERT INTO haulier.producers (name) VALUES ('p');
INSERT INTO haulier.jobs (id, producer, state, endpoint, account, max_attempts, total, pending,
    succeeded, failed, open_batches, settled_batches, plan, cancel_requested_at, finished_at,
    attempts, input, error)
  SELECT md5(name)::uuid, 'p', state, '/v1/chat/completions', 'default', 3, total, pending,
    succeeded, failed, open, settled, plan::jsonb,
    CASE WHEN cancelled THEN now() END, CASE WHEN state IN
      ('completed', 'cancelled', 'rejected', 'failed') THEN now() END,
    1, input, CASE WHEN state IN ('rejected', 'failed') THEN 'no' END
  FROM (VALUES
    ('accepted', 'accepted', 5, 5, 0, 0, 0, 0, :plan, false, NULL),
    ('accepted, cancelled', 'accepted', 5, 5, 0, 0, 0, 0, :plan, true, NULL),
    ('to be read', 'accepted', 0, 0, 0, 0, 0, 0, NULL, false, 's3://b/k'),
    ('waiting', 'running', 3, 3, 0, 0, 1, 0, NULL, false, NULL),
    ('waiting, cancelled', 'running', 3, 3, 0, 0, 1, 0, NULL, true, NULL),
    ('queued', 'running', 3, 3, 0, 0, 1, 0, NULL, false, NULL),
    ('uploaded', 'running', 3, 3, 0, 0, 1, 0, NULL, false, NULL),
    ('created', 'running', 3, 3, 0, 0, 1, 0, NULL, false, NULL),
    ('created, cancelled', 'running', 3, 3, 0, 0, 1, 0, NULL, true, NULL),
    ('ended', 'running', 3, 3, 0, 0, 1, 0, NULL, false, NULL),
    ('parked', 'running', 3, 3, 0, 0, 1, 0, NULL, false, NULL),
    ('again', 'running', 3, 1, 2, 0, 1, 1, NULL, false, NULL),
    ('poison', 'running', 3, 3, 0, 0, 2, 1, NULL, false, NULL),
    ('to be assembled', 'running', 3, 0, 3, 0, 0, 1, NULL, false, NULL),
    ('completed', 'completed', 3, 0, 2, 1, 0, 1, NULL, false, NULL),
    ('cancelled', 'cancelled', 3, 0, 0, 3, 0, 1, NULL, true, NULL),
    ('rejected', 'rejected', 0, 0, 0, 0, 0, 0, NULL, false, NULL),
    ('failed', 'failed', 0, 0, 0, 0, 0, 0, NULL, false, NULL)
  ) AS j (name, state, total, pending, succeeded, failed, open, settled, plan, cancelled, input);
INSERT INTO haulier.batches (id, job_id, parent_id, state, shard, attempt, poison, account, model,
    producer, endpoint, admitted_at, input_blob, manifest_blob, bytes, requests, succeeded, dead,
    carried, input_file_id, provider_batch_id, parked_at, ending, outcome, settle_order,
    finished_at, lease, leased_until)
  SELECT md5('batch of ' || name)::uuid, md5(job)::uuid,
    CASE WHEN parent IS NOT NULL THEN md5('batch of ' || parent)::uuid END, state, 0,
    CASE WHEN parent IS NULL THEN 1 ELSE 2 END, poison, 'default', 'm', 'p',
    CASE WHEN old THEN '' ELSE '/v1/chat/completions' END,
    CASE WHEN admitted THEN now() END, 'in', 'man', 300, requests, succeeded, dead, carried,
    CASE WHEN state NOT IN ('queued', 'cancelled') THEN 'file ' || name END,
    CASE WHEN state IN ('created', 'ended', 'settled') THEN 'batch ' || name END,
    CASE WHEN job = 'parked' THEN now() END, CASE WHEN job LIKE '%, cancelled' THEN 'cancelled' END,
    CASE WHEN succeeded + dead > 0 THEN '{"blob": "b", "index_blob": "i", "first_ordinal": 0,
      "last_ordinal": 2, "bytes": 1, "requests": 3}'::jsonb END,
    CASE WHEN state IN ('settled', 'cancelled') THEN 1 END,
    CASE WHEN state IN ('settled', 'cancelled') THEN now() END,
    CASE WHEN job = 'created' THEN gen_random_uuid() END, CASE WHEN job = 'created' THEN now() END
  FROM (VALUES
    ('waiting', 'waiting', NULL, 'queued', 0, false, 3, 0, 0, 0, false),
    ('waiting, cancelled', 'waiting, cancelled', NULL, 'queued', 0, true, 3, 0, 0, 0, false),
    ('queued', 'queued', NULL, 'queued', 0, true, 3, 0, 0, 0, false),
    ('uploaded', 'uploaded', NULL, 'uploaded', 0, true, 3, 0, 0, 0, false),
    ('created', 'created', NULL, 'created', 0, true, 3, 0, 0, 0, false),
    ('created, cancelled', 'created, cancelled', NULL, 'created', 0, true, 3, 0, 0, 0, false),
    ('ended', 'ended', NULL, 'ended', 0, true, 3, 0, 0, 0, false),
    ('parked', 'parked', NULL, 'created', 0, true, 3, 0, 0, 0, false),
    ('again', 'again', NULL, 'settled', 0, true, 3, 2, 0, 1, false),
    ('again 2', 'again', 'again', 'queued', 0, false, 1, 0, 0, 0, false),
    ('poison', 'poison', NULL, 'settled', 0, true, 3, 0, 0, 3, false),
    ('poison 2', 'poison', 'poison', 'queued', 1, false, 2, 0, 0, 0, false),
    ('poison 3', 'poison', 'poison', 'created', 1, true, 1, 0, 0, 0, false),
    ('to be assembled', 'to be assembled', NULL, 'settled', 0, true, 3, 3, 0, 0, false),
    ('completed', 'completed', NULL, 'settled', 0, true, 3, 2, 1, 0, true),
    ('cancelled', 'cancelled', NULL, 'cancelled', 0, true, 3, 0, 3, 0, true)
  ) AS b (name, job, parent, state, poison, admitted, requests, succeeded, dead, carried, old);
INSERT INTO haulier.dead_letters (job_id, ordinal, custom_id, code, message, attempts, batch_id)
  VALUES (md5('completed')::uuid, 2, 'c', 'error', 'no', 1, md5('batch of completed')::uuid);
INSERT INTO haulier.events (job_id, batch_id, source, target)
  SELECT job_id, id, NULL, 'queued' FROM haulier.batches;
INSERT INTO haulier.segments VALUES (md5('completed')::uuid, 1, 0, 'b', 'i', 1, 3)
"""
PLAN = """[
  {"model": "m", "input_blob": "in", "manifest_blob": "one", "bytes": 200, "requests": 2},
  {"model": "n", "input_blob": "in", "manifest_blob": "two", "bytes": 300, "requests": 3}]"""


@pytest.fixture
def carried_over(empty_database_url: str) -> Iterator[Harness]:
    """A database that the version before parts has filled, migrated to this one."""
    url = empty_database_url
    with schema._migrating(url) as connection:
        config = schema._config()
        config.attributes["connection"] = connection
        connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
        connection.commit()
        command.upgrade(config, "0013")
        connection.commit()
        for statement in BEFORE_PARTS.split(";\n"):
            given = {"plan": PLAN} if ":plan" in statement else {}
            connection.execute(text(statement), given)
        connection.commit()
    schema.migrate(url)
    made = engine.create(url)
    yield Harness(engine.database(made))
    made.dispose()


def _job(name: str) -> UUID:
    return UUID(md5(name.encode()).hexdigest())


def test_jobs_in_every_state_are_carried_over_to_parts(carried_over: Harness) -> None:
    harness = carried_over
    states = {
        name: [(part.state, batch and batch.state) for part, batch in _parts(harness, name)]
        for name in ("accepted", "to be read", "waiting", "queued", "created", "again", "completed")
    }
    waiting, travelling, settled = PartState.WAITING, PartState.TRAVELLING, PartState.SETTLED
    assert states == {
        "accepted": [(waiting, None), (waiting, None)],
        "to be read": [],
        "waiting": [(waiting, None)],
        "queued": [(travelling, BatchState.QUEUED)],
        "created": [(travelling, BatchState.CREATED)],
        "again": [(settled, BatchState.SETTLED), (waiting, None)],
        "completed": [(settled, BatchState.SETTLED)],
    }
    assert harness.job(_job("accepted")).state is JobState.RUNNING
    assert harness.job(_job("to be read")).state is JobState.ACCEPTED
    for name in ("accepted, cancelled", "waiting, cancelled", "created, cancelled"):
        endings = [batch and batch.ending for _, batch in _parts(harness, name)]
        assert set(endings) == {Ending.CANCELLED}, name
    first, *pieces = sorted(
        (part for part, _ in _parts(harness, "poison")), key=lambda part: part.attempt
    )
    assert [piece.failed_first for piece in pieces] == [first.id, first.id]
    assert [piece.company for piece in pieces] == [piece.id for piece in pieces]
    found, _ = dead_letters_by_part(harness.db, _job("completed"), None)
    assert [letter.part_id for letter in found] == [_parts(harness, "completed")[0][0].id]
    log = [event.target for event in jobs.events(harness.db, _job("again"), after=0, limit=9)]
    assert log == ["queued", "queued"]


def test_jobs_that_were_carried_over_run_to_their_ends(carried_over: Harness) -> None:
    harness = carried_over
    harness.run("UPDATE haulier.batches SET parked_at = NULL, lease = NULL, leased_until = NULL")
    harness.run("UPDATE haulier.jobs SET not_before = now(), lease = NULL, leased_until = NULL")
    unread = _job("to be read")
    harness.apply(harness.claim_job(unread, Stage.SPLIT), Split((shard(2),)))
    admit(harness.db, limit=99, capacity=Capacity(batches=None, tokens=10**12))
    open_ones = harness.rows("SELECT id FROM haulier.batches WHERE finished_at IS NULL")
    for batch_id in open_ones:
        harness.due_now(batch_id)
        batch = harness.batch(batch_id)
        claim = harness.claim(batch_id, BATCH_STAGES[batch.state])
        done = tuple(
            settlement(0, dead=range(part.requests), part=part.id, job_id=part.job_id)
            if part.attempt == 1
            else settlement(part.requests, part=part.id, job_id=part.job_id)
            for part in parts_of(harness.db, claim)
        )
        to = BatchState.SETTLED if batch.provider_batch_id else BatchState.FAILED
        harness.apply(claim, Settle(to, done))
    for job_id in harness.rows("SELECT id FROM haulier.jobs WHERE finished_at IS NULL"):
        harness.end(job_id)
    assert harness.rows("SELECT id FROM haulier.jobs WHERE finished_at IS NULL") == []


def _parts(harness: Harness, name: str) -> list[tuple[Part, Batch | None]]:
    return jobs.parts(harness.db, _job(name), after=None, limit=99)
