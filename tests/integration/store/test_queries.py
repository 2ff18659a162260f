"""Plans at ten million finished rows: what a worker, a scheduler and a reader wait for stays on an
index.

The plans are those of the statements as they ran, with the driver's own parameters and prepared
statements: auto_explain hands them back. HAULIER_TEST_FINISHED_ROWS sets how many there are.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import partial
from hashlib import md5
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Engine, event, text

from service.payloads.bundles import BUNDLE_SPECS
from service.payloads.inputs import uploaded
from service.rules.admission import Capacity
from service.rules.outcomes import Settle, Wait
from service.rules.packing import Limits
from service.rules.spec import Spec
from service.rules.states import BatchState, JobState, Stage
from service.store import engine, expiry, files, heartbeats, jobs, notices, uploads
from service.store.cancel import cancel
from service.store.claim import claim_batches, extend, final_lines
from service.store.due import dispatch
from service.store.engine import clock
from service.store.forecasts import of_jobs, of_lanes
from service.store.foresee import look
from service.store.gauges import gauges
from service.store.models import Batch, Job
from service.store.parts import parts_of
from service.store.producers import add_producer
from service.store.requests import shards, standing, traces
from service.store.situation import overview
from service.store.submit import Submission, Submitted, submit_each
from service.store.wait import wait as write_waits
from service.store.waiting import why
from tests.factories import (
    AT_ONCE,
    LEASE,
    Harness,
    admit,
    settlement,
    spec,
    submit,
)
from tests.servers import Databases

FINISHED = int(os.environ.get("HAULIER_TEST_FINISHED_ROWS", "50000"))
OPEN = 300
WAITING = 20_000
MINUTE = timedelta(minutes=1)
BIG = ("jobs", "parts", "batches", "events", "dead_letters", "segments")

FILL = """
INSERT INTO haulier.producers SELECT 'producer-' || n FROM generate_series(0, 9) n;
INSERT INTO haulier.accounts (name) VALUES ('default'), ('other');
INSERT INTO haulier.jobs (id, producer, state, endpoint, account, max_attempts, total, succeeded,
    created_at, finished_at, not_before, settled_parts)
  SELECT md5('job' || n)::uuid, 'producer-' || n % 10,
    (ARRAY['completed', 'completed', 'completed', 'cancelled'])[1 + n % 4],
    '/v1/chat/completions', 'default', 3, 10, 10, now() - n * interval '3 s',
    now() - n * interval '3 s', now() - n * interval '3 s', 1
  FROM generate_series(1, :finished) n;
INSERT INTO haulier.batches (id, state, account, endpoint, producer, model, bytes, requests,
    succeeded, provider_batch_id, finished_at, not_before, created_at)
  SELECT md5('batch' || n)::uuid, 'settled', 'default', '/v1/chat/completions',
    'producer-' || n % 10, 'm', 1000, 10, 10, 'provider-' || n, now() - n * interval '3 s',
    now() - n * interval '3 s', now() - n * interval '3 s'
  FROM generate_series(1, :finished) n;
INSERT INTO haulier.parts (id, job_id, batch_id, state, shard, account, endpoint, producer, model,
    input_blob, manifest_blob, bytes, requests, succeeded, finished_at, settle_order, final_lines)
  SELECT md5('part' || n)::uuid, md5('job' || n)::uuid, md5('batch' || n)::uuid, 'settled', 0,
    'default', '/v1/chat/completions', 'producer-' || n % 10, 'm', 'i', 'm', 1000, 10, 10,
    now() - n * interval '3 s', 1,
    '{"blob": "b", "index_blob": "i", "first_ordinal": 0, "last_ordinal": 9, "bytes": 9,
      "requests": 10}'
  FROM generate_series(1, :finished) n;
INSERT INTO haulier.events (batch_id, source, target)
  SELECT md5('batch' || n)::uuid, 'ended', 'settled' FROM generate_series(1, :finished) n;
INSERT INTO haulier.events (job_id, source, target)
  SELECT md5('job' || n)::uuid, 'running', 'completed' FROM generate_series(1, :finished) n;
INSERT INTO haulier.segments SELECT md5('job' || n)::uuid, 1, 0, 'b', 'i', 9, 10
  FROM generate_series(1, :finished) n;
INSERT INTO haulier.dead_letters (job_id, ordinal, custom_id, code, message, attempts, part_id)
  SELECT md5('job' || n)::uuid, 0, 'a', 'c', 'm', 1, md5('part' || n)::uuid
  FROM generate_series(1, :finished) n;
INSERT INTO haulier.jobs (id, producer, state, endpoint, account, max_attempts, total, pending,
    open_parts)
  SELECT md5('running' || n)::uuid, 'producer-' || n % 10, 'running', '/v1/chat/completions',
    'default', 3, 10, 10, 1
  FROM generate_series(1, :open) n;
INSERT INTO haulier.batches (id, state, account, endpoint, producer, model, bytes, requests,
    input_file_id, provider_batch_id, not_before)
  SELECT md5('open' || n)::uuid, (ARRAY['queued', 'uploaded', 'created', 'ended'])[1 + n % 4],
    'default', '/v1/chat/completions', 'producer-' || n % 10, 'm', 1000, 10, 'file-' || n,
    'open-' || n, now() + (n % 3 - 1) * interval '1 min'
  FROM generate_series(1, :open) n;
INSERT INTO haulier.parts (id, job_id, batch_id, state, shard, account, endpoint, producer, model,
    input_blob, manifest_blob, bytes, requests)
  SELECT md5('open part' || n)::uuid, md5('running' || n)::uuid, md5('open' || n)::uuid,
    'travelling', 0, 'default', '/v1/chat/completions', 'producer-' || n % 10, 'm', 'i', 'm',
    1000, 10
  FROM generate_series(1, :open) n;
INSERT INTO haulier.parts (id, job_id, state, shard, account, endpoint, producer, priority, model,
    input_blob, manifest_blob, bytes, requests)
  SELECT md5('waiting' || n)::uuid, md5('running' || 1 + n % :open)::uuid, 'waiting', 0, 'default',
    '/v1/chat/completions', 'producer-' || n % 10, n % 2, 'm-' || n % 3, 'i', 'm', 1000, 10
  FROM generate_series(1, :waiting) n;
INSERT INTO haulier.jobs (id, producer, state, endpoint, account, max_attempts, total, pending)
  SELECT md5('accepted' || n)::uuid, 'producer-' || n % 10, 'accepted', '/v1/chat/completions',
    'default', 3, 10, 10
  FROM generate_series(1, :open) n;
"""

MARKS = """
UPDATE haulier.jobs SET metadata = jsonb_build_object('run', 'r' || abs(hashtext(id::text)) % 2000,
    'team', 'search');
"""


class Plans:
    """The plans of what runs on an engine, while it is watched."""

    def __init__(self, made: Engine) -> None:
        self.found: list[str] = []
        event.listen(made, "connect", self._watch)

    def _watch(self, connection: psycopg.Connection[object], _record: object) -> None:
        connection.add_notice_handler(self._take)
        try:
            with connection.cursor() as cursor:
                cursor.execute("LOAD 'auto_explain'")
                cursor.execute("SET auto_explain.log_min_duration = 0")
                cursor.execute("SET auto_explain.log_level = notice")
                cursor.execute("SET auto_explain.log_analyze = on")
                cursor.execute("SET auto_explain.log_timing = off")
                cursor.execute("SET auto_explain.log_nested_statements = on")
            connection.commit()
        except psycopg.Error as error:
            pytest.skip(f"auto_explain cannot be loaded here: {error}")

    def _take(self, notice: psycopg.errors.Diagnostic) -> None:
        message = notice.message_primary or ""
        if message.startswith("duration:"):
            self.found.append(message)

    def of(self, work: Callable[[], object]) -> list[str]:
        """The plans of all statements of `work`."""
        self.found.clear()
        work()
        return self.found[:]


def fill(url: str, *, more: str = "", finished: int, running: int = OPEN) -> None:
    """Rows of a deployment with so many finished jobs, and what `more` statements add."""
    filler = engine.create(url, statement_timeout=timedelta(0))
    counts = {"finished": finished, "open": running, "waiting": WAITING}
    with closing(filler.connect()) as opened:
        connection = opened.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("SET synchronous_commit = off"))
        connection.execute(text("SET session_replication_role = replica"))  # no foreign keys
        for statement in f"{FILL}{more}".split(";\n"):
            if statement.strip():
                used = {name: n for name, n in counts.items() if f":{name}" in statement}
                connection.execute(text(statement), used)
        connection.execute(text("VACUUM ANALYZE"))
    filler.dispose()


@pytest.fixture(scope="module")
def _filled(databases: Databases) -> Iterator[tuple[Harness, Plans]]:
    url = databases.create()
    fill(url, more=MARKS, finished=FINISHED)
    made = engine.create(url)
    plans = Plans(made)
    yield Harness(engine.database(made)), plans
    made.dispose()
    databases.drop(url)


@pytest.fixture
def harness(_filled: tuple[Harness, Plans]) -> Harness:
    return _filled[0]


@pytest.fixture
def plans(_filled: tuple[Harness, Plans]) -> Plans:
    return _filled[1]


def _assert_on_an_index(found: list[str], *, most_removed: int = 4 * OPEN) -> None:
    """No big table is read from end to end, and no wide part of an index thrown away."""
    assert found, "nothing was explained"
    for plan in found:
        for table in BIG:
            assert not re.search(rf"Seq Scan on (haulier\.)?{table}\b", plan), plan
        # An index that is walked from end to end is no better.
        for removed in re.findall(r"Rows Removed by (?:Filter|Index Recheck): (\d+)", plan):
            assert int(removed) <= most_removed, plan


def _id(word: str, number: int) -> UUID:
    return UUID(md5(f"{word}{number}".encode()).hexdigest())


STAGES = [
    (Job, frozenset({Stage.SPLIT, Stage.ASSEMBLE})),
    (Batch, frozenset({Stage.UPLOAD, Stage.FETCH})),
    (Batch, frozenset({Stage.CREATE})),
    (Batch, frozenset({Stage.POLL})),
]
TIMES = 12
"""After five runs psycopg prepares a statement, and after five more Postgres may plan it once for
all parameters."""


def _named(value: object) -> str:
    return "-".join(sorted(value)) if isinstance(value, frozenset) else str(value)[-12:]


@pytest.mark.parametrize(("row", "stages"), STAGES, ids=_named)
def test_a_tick_stays_on_an_index(
    harness: Harness, plans: Plans, row: type[Job | Batch], stages: frozenset[Stage]
) -> None:
    def tick() -> None:
        dispatch(harness.db, row, stages, limit=5, again=MINUTE)

    for _ in range(TIMES):
        found = plans.of(tick)
        assert len(found) == (1 if row is Batch else 2)
        _assert_on_an_index(found)


def test_letting_in_reads_a_few_of_those_that_wait(harness: Harness, plans: Plans) -> None:
    alone = Limits(requests=10, bytes=10**9, wait=timedelta(0))
    capacity = Capacity(batches=None, tokens=10**12)
    for _ in range(TIMES):
        found = plans.of(lambda: admit(harness.db, limit=2, capacity=capacity, limits=alone))
        _assert_on_an_index(found)
        assert (
            max(int(rows) for plan in found for rows in re.findall(r"actual rows=(\d+)", plan))
            < OPEN
        )


def test_saying_why_a_job_waits_stays_on_an_index(harness: Harness, plans: Plans) -> None:
    capacity = Capacity(batches=1, tokens=10**12)
    for number in range(TIMES):
        job = jobs.job(harness.db, _id("running", number + 1), None)
        assert job is not None
        _assert_on_an_index(plans.of(partial(why, harness.db, job, capacity, AT_ONCE)))


def test_making_and_reading_forecasts_stays_on_an_index(harness: Harness, plans: Plans) -> None:
    ids = [_id("running", number) for number in range(1, 101)]

    def read() -> None:
        with harness.db.begin() as session:
            assert len(of_jobs(session, ids)) == len(ids)
            of_lanes(session)

    for _ in range(TIMES):
        _assert_on_an_index(plans.of(lambda: look(harness.db)))
        _assert_on_an_index(plans.of(read))


def test_claiming_and_applying_stay_on_an_index(harness: Harness, plans: Plans) -> None:
    def work(number: int) -> None:
        batch_id = _id("open", 3 + 4 * number)
        harness.run("UPDATE haulier.batches SET not_before = now() WHERE id = :id", id=batch_id)
        (claim,) = claim_batches(harness.db, [batch_id], Stage.FETCH, LEASE)
        extend(harness.db, claim, LEASE)
        harness.apply(claim, Wait(timedelta(0)))
        (claim,) = claim_batches(harness.db, [batch_id], Stage.FETCH, LEASE)
        assert parts_of(harness.db, claim)
        harness.apply(claim, Settle(BatchState.SETTLED, (settlement(8, dead=[0, 1]),)))

    for number in range(TIMES):
        _assert_on_an_index(plans.of(partial(work, number)))


def test_a_page_of_claims_stays_on_an_index(harness: Harness, plans: Plans) -> None:
    ids = [_id("open", number) for number in range(1, 101)]
    for _ in range(TIMES):
        found = plans.of(lambda: claim_batches(harness.db, ids, Stage.POLL, timedelta(0)))
        _assert_on_an_index(found)


def test_a_page_of_waits_stays_on_an_index(harness: Harness, plans: Plans) -> None:
    ids = [_id("open", number) for number in range(1, 101)]
    for _ in range(TIMES):
        claims = claim_batches(harness.db, ids, Stage.POLL, LEASE)
        waits = [(claim, Wait(timedelta(0))) for claim in claims]
        _assert_on_an_index(plans.of(partial(write_waits, harness.db, waits)))


def test_cancelling_stays_on_an_index(harness: Harness, plans: Plans) -> None:
    for number in range(TIMES):
        job_id = _id("running", OPEN - number)
        _assert_on_an_index(plans.of(partial(cancel, harness.db, job_id)))


def test_metrics_stay_on_an_index(harness: Harness, plans: Plans) -> None:
    for _ in range(TIMES):
        _assert_on_an_index(plans.of(partial(gauges, harness.db)))


def test_the_overview_stays_on_an_index(harness: Harness, plans: Plans) -> None:
    for _ in range(TIMES):
        _assert_on_an_index(plans.of(partial(overview, harness.db)))


def test_submitting_stays_on_an_index(harness: Harness, plans: Plans) -> None:
    for number in range(TIMES):
        asked = spec("a", idempotency_key=f"k{number % 3}", input=None)
        submission = Submission(id=uuid4(), producer="producer-1", spec=asked)
        _assert_on_an_index(plans.of(partial(submit, harness.db, [submission])))


def test_batches_made_of_files_stay_on_an_index(harness: Harness, plans: Plans) -> None:
    announced = partial(files.announce, harness.db, producer="producer-1", credential=None)
    announced(file_id="file-1", filename="a", purpose="batch-api", digest=b"", sha256=None)
    takes_bytes = uploads.expected(harness.db, "file-1")
    assert takes_bytes is not None

    def work() -> None:
        uploads.reserve(harness.db, uuid4(), takes_bytes[0], least=1, most=1)
        expiry.are_due(harness.db, after=MINUTE)
        expiry.expire(harness.db, after=MINUTE, limit=50)
        expiry.discardable(harness.db, limit=50)
        files.jobs_of_files(harness.db, "producer-1", limit=50)
        expiry.named(harness.db, [f"files/file-{uuid4()}/{uuid4()}" for _ in range(100)])
        made = Spec(endpoint="/v1/chat/completions", input=uploaded("files/file-1/a"))
        submission = Submission(id=uuid4(), producer="producer-1", spec=made)
        since = engine.clock(harness.db) - MINUTE
        files.submit_once(harness.db, "file-1", submission, since=since)

    for _ in range(TIMES):
        _assert_on_an_index(plans.of(work))


def test_a_page_of_submissions_stays_on_an_index(harness: Harness, plans: Plans) -> None:
    page = [
        Submission(id=uuid4(), producer=f"producer-{number % 9}", spec=spec("a", **key))
        for number in range(BUNDLE_SPECS // 2)
        for key in ({}, {"idempotency_key": f"page-{number}"})
    ]

    def store() -> None:
        stored = submit_each(harness.db, [replace(s, id=uuid4()) for s in page[1::2]] + page[::2])
        jobs.jobs_by_id(harness.db, {s.id for s in stored if isinstance(s, Submitted)})

    for _ in range(TIMES):  # all but the first find them by their keys and by their ids
        _assert_on_an_index(plans.of(store))


def test_counting_what_a_limited_producer_submits_stays_on_an_index(
    harness: Harness, plans: Plans
) -> None:
    add_producer(harness.db, "limited", requests_per_day=10**9, open_requests=10**9)
    for number in range(TIMES):
        keys: list[dict[str, str]] = [{}, {"idempotency_key": f"limited-{number % 3}"}]
        page = [Submission(id=uuid4(), producer="limited", spec=spec("a", **key)) for key in keys]
        _assert_on_an_index(plans.of(partial(submit_each, harness.db, page)))


@pytest.mark.parametrize("producer", [None, "producer-3"])
@pytest.mark.parametrize(
    "states",
    [
        [],
        [JobState.COMPLETED],
        [JobState.RUNNING],
        [JobState.FAILED],
        [JobState.RUNNING, JobState.ACCEPTED],
    ],
    ids=str,
)
def test_listing_jobs_stays_on_an_index(
    harness: Harness, plans: Plans, producer: str | None, states: list[JobState]
) -> None:
    def page(number: int) -> None:
        first = jobs.jobs(harness.db, producer=producer, states=states, limit=50)
        if first and number % 2:
            before = (first[-1].created_at, first[-1].id)
            jobs.jobs(harness.db, producer=producer, states=states, before=before, limit=50)

    for number in range(TIMES):
        # A producer's jobs in a common state may be picked out of everybody's: one in ten here.
        _assert_on_an_index(plans.of(partial(page, number)), most_removed=20 * OPEN)


@pytest.mark.parametrize("producer", [None, "producer-3"])
@pytest.mark.parametrize("states", [[], [JobState.COMPLETED]], ids=str)
@pytest.mark.parametrize("run", ["r7", "none"])
def test_finding_jobs_by_their_marks_stays_on_an_index(
    harness: Harness, plans: Plans, producer: str | None, states: list[JobState], run: str
) -> None:
    find = partial(
        jobs.jobs, harness.db, producer=producer, states=states, marks=[{"run": run}], limit=5
    )
    yesterday = clock(harness.db) - timedelta(days=1)

    def page(number: int) -> None:
        first = find(created_from=yesterday) if number % 2 else find()
        if first:
            find(before=(first[-1].created_at, first[-1].id))

    for number in range(TIMES):
        _assert_on_an_index(plans.of(partial(page, number)), most_removed=20 * OPEN)


@pytest.mark.parametrize("producer", [None, "producer-3"])
def test_finding_a_job_by_the_first_digits_of_its_id_stays_on_an_index(
    harness: Harness, plans: Plans, producer: str | None
) -> None:
    for number in range(TIMES):
        find = partial(jobs.jobs, harness.db, producer=producer, id_begins=f"{number:04x}", limit=5)
        _assert_on_an_index(plans.of(find), most_removed=20 * OPEN)


@pytest.mark.parametrize("producer", [None, "producer-3"])
def test_listing_the_jobs_of_a_while_stays_on_an_index(
    harness: Harness, plans: Plans, producer: str | None
) -> None:
    now = clock(harness.db)

    def page(number: int) -> None:
        first = now - timedelta(minutes=100 * (number + 1))
        found = jobs.jobs(
            harness.db,
            producer=producer,
            created_from=first,
            created_before=first + timedelta(minutes=50),
            limit=50,
        )
        assert len(found) == 50

    for number in range(TIMES):
        _assert_on_an_index(plans.of(partial(page, number)))


def test_looking_at_a_job_stays_on_an_index(harness: Harness, plans: Plans) -> None:
    def look(number: int) -> None:
        job_id = _id("job", number * 1000 + 1)
        assert jobs.job(harness.db, job_id, None) is not None
        ((part, _),) = jobs.parts(harness.db, job_id, after=None, limit=50)
        after = (part.shard, part.created_at, part.id)
        assert jobs.parts(harness.db, job_id, after=after, limit=50) == []
        assert jobs.events(harness.db, job_id, after=0, limit=50)
        assert jobs.failures(harness.db, job_id, after=-1, limit=50)
        assert jobs.segments(harness.db, job_id, 1)
        assert final_lines(harness.db, job_id)
        assert standing(harness.db, job_id)
        assert shards(harness.db, job_id)
        assert traces(harness.db, job_id, 0, 0).dead
        heartbeats.heartbeats(harness.db)

    for number in range(TIMES):
        _assert_on_an_index(plans.of(partial(look, number)))


def test_deleting_a_job_stays_on_an_index(harness: Harness, plans: Plans) -> None:
    def delete() -> None:
        harness.run("DELETE FROM haulier.jobs WHERE id = :id", id=_id("job", 7))

    _assert_on_an_index(plans.of(delete))


def test_nothing_but_what_is_open_is_in_the_index_of_what_is_due(harness: Harness) -> None:
    sizes = harness.rows(
        "SELECT pg_relation_size(i) FROM unnest(ARRAY['haulier.jobs_due_idx',"
        " 'haulier.batches_due_idx']::regclass[]) i"
    )
    assert max(sizes) < 200_000


def test_a_notifier_and_a_reader_of_deliveries_stay_on_an_index(
    harness: Harness, plans: Plans
) -> None:
    harness.run(
        "INSERT INTO haulier.deliveries (id, job_id, event, target, endpoint, delivered_at)"
        " SELECT gen_random_uuid(), md5('running' || 1 + n % 300)::uuid, 'job.progress',"
        " '{\"webhook\": \"https://a\"}', 'webhook a:443', CASE WHEN n > 20000 THEN now() END"
        " FROM generate_series(1, 70000) n"
    )
    harness.run("ANALYZE haulier.deliveries")

    def deliver() -> None:
        for sending in notices.claim(harness.db, limit=64, share=16, lease_for=MINUTE):
            notices.delivered(harness.db, sending)
        notices.deliveries(harness.db, _id("job", 1), after=None, limit=50)

    for _ in range(TIMES):
        found = plans.of(deliver)
        _assert_on_an_index(found)
        assert not any("Seq Scan on deliveries" in plan for plan in found)
