"""Races, each forced: real transactions wait for one another in the order that the test sets.

Whoever is to wait is made to wait by a lock that the test holds, and the test looks into Postgres
until it does. Only the last two hope for unlucky moments, of which they make many.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import redis
from celery import Celery
from sqlalchemy import Engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import sessionmaker

from service.payloads.intake import Taken
from service.rules.admission import Capacity
from service.rules.errors import Conflict
from service.rules.outcomes import Assembled, RetryPart, Settle, Settlement
from service.rules.packing import Limits
from service.rules.states import BatchState, JobState, Stage
from service.rules.work import BatchClaim
from service.store import engine
from service.store.cancel import cancel
from service.store.claim import claim_batches
from service.store.due import dispatch
from service.store.models import Batch
from service.store.parts import parts_of
from service.store.revive import Revival, dead_letters_by_part, revive
from service.store.submit import Submission, Submitted
from tests.eventually import eventually
from tests.factories import (
    LEASE,
    Harness,
    admit,
    claim_job,
    mingled,
    settlement,
    shard,
    spec,
    submit,
)
from tests.pipeline import Pipeline, chat
from tests.processes import Running
from tests.servers import Databases, url_of
from workers.submit_queue import HELD

UPLOADS = frozenset({Stage.UPLOAD})
LATER = timedelta(minutes=4)


@pytest.fixture(scope="module")
def connections(databases: Databases) -> Iterator[Engine]:
    url = databases.create()
    made = engine.create(url, pool_size=12)
    yield made
    made.dispose()
    databases.drop(url)


@pytest.fixture
def harness(connections: Engine) -> Harness:
    made = Harness(engine.database(connections))
    made.sweep()
    return made


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def waiting(url: str) -> int:
    """How many sessions of a database wait for somebody's lock."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchone()
    assert found is not None
    return int(found[0])


@contextmanager
def held(connections: Engine, statement: str, **values: Any) -> Iterator[Connection]:
    """A transaction that did something and has not ended. It is rolled back if nobody commits."""
    with connections.connect() as connection:
        transaction = connection.begin()
        connection.execute(text(statement), values)
        yield connection
        if transaction.is_active:
            transaction.rollback()


def in_turn(
    connections: Engine,
    threads: ThreadPoolExecutor,
    job_id: UUID,
    *works: Callable[[], Any],
) -> list["Future[Any]"]:
    """Run works that need the job's row so that each waits for it, first come, first served."""
    url = url_of(connections)
    done: list[Future[Any]] = []
    with held(connections, "SELECT 1 FROM haulier.jobs WHERE id = :id FOR UPDATE", id=job_id):
        for number, work in enumerate(works, 1):
            done.append(threads.submit(work))
            eventually(lambda number=number: waiting(url) == number)  # type: ignore[misc]
    for future in done:
        future.exception(timeout=30)
    return done


def with_retry(succeeded: int, carried: int) -> Settlement:
    """What a batch comes to that leaves requests over, for much later."""
    retry = RetryPart(manifest="m", requests=carried, bytes=1, delay=LATER)
    return settlement(succeeded, retries=(retry,))


# --- settling -----------------------------------------------------------------------------------


def test_two_last_batches_that_settle_at_once_leave_one_job_to_assemble(
    harness: Harness, connections: Engine, threads: ThreadPoolExecutor
) -> None:
    first, second = harness.split(3, 2)
    job_id = harness.part(first).job_id
    for batch_id in (first, second):
        harness.advance(batch_id, BatchState.ENDED)
        harness.due_now(batch_id)
    claims = [harness.claim(batch_id, Stage.FETCH) for batch_id in (first, second)]
    ends = (
        settlement(3, final_lines=mingled()),
        settlement(1, dead=[4], final_lines=mingled()),
    )

    done = in_turn(
        connections,
        threads,
        job_id,
        lambda: harness.apply(claims[0], Settle(BatchState.SETTLED, (ends[0],))),
        lambda: harness.apply(claims[1], Settle(BatchState.SETTLED, (ends[1],))),
    )

    assert [future.exception() for future in done] == [None, None]
    job = harness.job(job_id)
    assert (job.succeeded, job.failed, job.pending, job.open_parts) == (4, 1, 0, 0)
    assert sorted([harness.part(b).settle_order or 0 for b in (first, second)]) == [1, 2]
    claim = harness.claim_job(job_id, Stage.ASSEMBLE)
    assert claim_job(harness.db, job_id, Stage.ASSEMBLE, LEASE) is None
    harness.apply(claim, Assembled(()))
    assert harness.job(job_id).state is JobState.COMPLETED


# --- cancelling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["cancel", "settle"])
def test_a_retry_batch_that_is_made_while_its_job_is_cancelled_is_never_sent(
    harness: Harness, connections: Engine, threads: ThreadPoolExecutor, first: str
) -> None:
    batch_id = harness.ended(5)
    job_id = harness.part(batch_id).job_id
    harness.due_now(batch_id)
    claim = harness.claim(batch_id, Stage.FETCH)
    works: list[Callable[[], Any]] = [
        lambda: cancel(harness.db, job_id),
        lambda: harness.apply(claim, Settle(BatchState.SETTLED, (with_retry(2, 3),))),
    ]

    done = in_turn(connections, threads, job_id, *(works if first == "cancel" else reversed(works)))

    assert [future.exception() for future in done] == [None, None]
    (retry,) = harness.open_batches(job_id)
    # At once, and not when its pause would have been over.
    (upload,) = claim_batches(harness.db, [retry], Stage.UPLOAD, LEASE)
    assert upload.cancel_requested
    harness.apply(upload, Settle(BatchState.CANCELLED, (settlement(0, dead=range(2, 5)),)))
    harness.end(job_id)
    job = harness.job(job_id)
    assert (job.state, job.succeeded, job.failed) == (JobState.CANCELLED, 2, 3)


def finished(harness: Harness, state: JobState) -> tuple[UUID, list[Revival]]:
    """A job with two dead letters, and what retries them."""
    batch_id = harness.queued(2)
    job_id = harness.part(batch_id).job_id
    if state is JobState.CANCELLED:
        cancel(harness.db, job_id)
    dead = Settle(BatchState.FAILED, (settlement(0, dead=range(2)),))
    harness.apply(harness.claim(batch_id, Stage.UPLOAD), dead)
    harness.end(job_id)
    assert harness.job(job_id).state is state
    found, _ = dead_letters_by_part(harness.db, job_id, None)
    revivals = [
        Revival(part_id=g.part_id, manifest=str(uuid4()), ordinals=g.ordinals, bytes=1)
        for g in found
    ]
    return job_id, revivals


def test_a_cancel_right_behind_a_retry_stops_it(
    harness: Harness, connections: Engine, threads: ThreadPoolExecutor
) -> None:
    job_id, revivals = finished(harness, JobState.COMPLETED)

    done = in_turn(
        connections,
        threads,
        job_id,
        lambda: revive(harness.db, job_id, revivals),
        lambda: cancel(harness.db, job_id),
    )

    assert [future.exception() for future in done] == [None, None]
    (batch_id,) = harness.open_batches(job_id)
    claim = harness.claim(batch_id, Stage.UPLOAD)
    assert claim.cancel_requested
    harness.apply(claim, Settle(BatchState.CANCELLED, (settlement(0, dead=range(2)),)))
    harness.end(job_id)
    job = harness.job(job_id)
    assert (job.state, job.failed, job.pending) == (JobState.CANCELLED, 2, 0)


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.CANCELLED])
def test_a_cancel_right_before_a_retry_finds_nothing_to_stop(
    harness: Harness, connections: Engine, threads: ThreadPoolExecutor, state: JobState
) -> None:
    job_id, revivals = finished(harness, state)

    cancelled, revived = in_turn(
        connections,
        threads,
        job_id,
        lambda: cancel(harness.db, job_id),
        lambda: revive(harness.db, job_id, revivals),
    )

    assert isinstance(cancelled.exception(), Conflict) is (state is JobState.COMPLETED)
    assert revived.exception() is None
    harness.let_in()
    (batch_id,) = harness.open_batches(job_id)
    assert not harness.claim(batch_id, Stage.UPLOAD).cancel_requested
    job = harness.job(job_id)
    assert (job.state, job.failed, job.pending) == (JobState.RUNNING, 0, 2)


def test_of_two_retries_at_once_one_runs_the_requests_again(
    harness: Harness, connections: Engine, threads: ThreadPoolExecutor
) -> None:
    job_id, revivals = finished(harness, JobState.COMPLETED)

    done = in_turn(
        connections, threads, job_id, *[lambda: revive(harness.db, job_id, revivals)] * 2
    )

    assert done[0].exception() is None
    assert isinstance(done[1].exception(), Conflict)
    assert len(harness.open_parts(job_id)) == 1
    assert harness.job(job_id).pending == 2


# --- schedulers ---------------------------------------------------------------------------------


def test_what_one_scheduler_is_stamping_another_leaves_alone(
    harness: Harness, connections: Engine
) -> None:
    ids = set(harness.split(*[1] * 6))
    with connections.connect() as connection:
        transaction = connection.begin()
        one = sessionmaker(connection, join_transaction_mode="create_savepoint")
        first = {due.id for due in dispatch(one, Batch, UPLOADS, limit=4, again=LEASE)}

        second = {due.id for due in dispatch(harness.db, Batch, UPLOADS, limit=9, again=LEASE)}
        transaction.commit()

    assert len(first) == 4
    assert (first | second, first & second) == (ids, set())
    assert dispatch(harness.db, Batch, UPLOADS, limit=9, again=LEASE) == []


def test_what_a_killed_scheduler_was_stamping_the_other_takes_with_its_next_tick(
    harness: Harness, connections: Engine
) -> None:
    ids = set(harness.split(*[1] * 3))
    with connections.connect() as connection:
        transaction = connection.begin()
        one = sessionmaker(connection, join_transaction_mode="create_savepoint")
        assert len(dispatch(one, Batch, UPLOADS, limit=9, again=LEASE)) == 3
        assert dispatch(harness.db, Batch, UPLOADS, limit=9, again=LEASE) == []
        transaction.rollback()

    found = {due.id for due in dispatch(harness.db, Batch, UPLOADS, limit=9, again=LEASE)}
    assert found == ids


# --- submissions --------------------------------------------------------------------------------


def submission(job_id: UUID, key: str | None = None, content: str = "0") -> Submission:
    taken = Taken(3, (shard(3),), content * 64)
    fields = {} if key is None else {"idempotency_key": key}
    return Submission(id=job_id, producer="default", spec=spec(**fields), taken=taken)


@contextmanager
def submitting(connections: Engine, one: Submission) -> Iterator[Callable[[bool], None]]:
    """A submission whose transaction is not over; call what is yielded with whether it commits."""
    with connections.connect() as connection:
        transaction = connection.begin()
        db = sessionmaker(connection, join_transaction_mode="create_savepoint")
        assert submit(db, [one])[0].new

        def end(commits: bool) -> None:
            if commits:
                transaction.commit()
            else:
                transaction.rollback()

        yield end


@pytest.mark.parametrize("commits", [True, False], ids=["which-commits", "which-is-rolled-back"])
@pytest.mark.parametrize("key", [None, "nightly"])
def test_a_submission_that_comes_again_during_its_insert_becomes_one_job(
    harness: Harness,
    connections: Engine,
    threads: ThreadPoolExecutor,
    commits: bool,
    key: str | None,
) -> None:
    url = url_of(connections)
    harness.submitted()  # the producer is known
    first, second = uuid4(), uuid4()
    again = submission(first if key is None else second, key)
    with submitting(connections, submission(first, key)) as end:
        late = threads.submit(submit, harness.db, [again])
        eventually(lambda: waiting(url) == 1)
        assert not late.done()
        end(commits)

    expected = Submitted(first, new=False) if commits else Submitted(again.id, new=True)
    assert late.result(timeout=30) == [expected]
    there = harness.rows("SELECT id FROM haulier.jobs WHERE id IN (:a, :b)", a=first, b=second)
    assert list(there) == [expected.id]
    accepted = harness.rows("SELECT job_id FROM haulier.events WHERE job_id = :id", id=expected.id)
    assert len(accepted) == 1


def test_other_content_under_a_key_that_is_just_being_stored_is_refused(
    harness: Harness, connections: Engine, threads: ThreadPoolExecutor
) -> None:
    url = url_of(connections)
    harness.submitted()
    with submitting(connections, submission(uuid4(), "nightly")) as end:
        late = threads.submit(submit, harness.db, [submission(uuid4(), "nightly", "1")])
        eventually(lambda: waiting(url) == 1)
        end(True)

    assert isinstance(late.exception(timeout=30), Conflict)
    assert len(harness.rows("SELECT id FROM haulier.jobs WHERE idempotency_key = 'nightly'")) == 1


def test_two_inboxes_with_the_same_redelivered_message_store_one_job(
    pipeline: Pipeline, redis_url: str
) -> None:
    inboxes = [pipeline.inbox()]
    with (
        redis.Redis.from_url(redis_url) as broker,
        psycopg.connect(pipeline.url) as connection,
    ):
        # Whoever stores a job of this producer waits for us.
        connection.execute("SELECT FROM haulier.producers WHERE name = 'default' FOR UPDATE")
        with Celery("producer", broker=redis_url) as producer:
            sent = producer.send_task(
                "haulier.submit", kwargs={"spec": chat("a", "b")}, queue="haulier.submit"
            )
        eventually(lambda: broker.llen(HELD) == 1)
        # As if its reader had been taken for dead: the same message once more.
        broker.lpush("haulier.submit", broker.lindex(HELD, 0))
        inboxes.append(pipeline.inbox())
        eventually(lambda: broker.llen(HELD) == 2)
        connection.rollback()

        eventually(lambda: events(inboxes, "submission_accepted") == 1)
        eventually(lambda: not broker.llen(HELD) and not broker.keys("haulier.inbox.page*"))

    job = pipeline.job(UUID(sent.id))
    assert (job.state, job.idempotency_key) == (JobState.RUNNING, None)
    with psycopg.connect(pipeline.url) as connection:
        counts = connection.execute(
            "SELECT (SELECT count(*) FROM haulier.jobs), (SELECT count(*) FROM haulier.events)"
        ).fetchone()
    assert counts == (1, 1)
    assert events(inboxes, "submission_accepted") == 1


def events(inboxes: list[Running], name: str) -> int:
    """How often they logged an event."""
    return sum(inbox.output.count(f'"{name}"') for inbox in inboxes)


# --- batches that jobs share --------------------------------------------------------------------


def test_cancels_and_a_settling_at_once_end_every_job_of_a_shared_batch(harness: Harness) -> None:
    for _ in range(5):
        batch_id, jobs = harness.share(*[1] * 6)
        harness.advance(batch_id, BatchState.ENDED)
        harness.due_now(batch_id)
        claim = harness.claim(batch_id, Stage.FETCH)
        done = tuple(
            settlement(1, part=part.id, job_id=part.job_id) for part in parts_of(harness.db, claim)
        )
        start = Barrier(5)

        def settle(start: Barrier = start, claim: BatchClaim = claim, done: Any = done) -> None:
            start.wait(10)
            harness.apply(claim, Settle(BatchState.SETTLED, done))

        def end(job_id: UUID, start: Barrier = start) -> None:
            start.wait(10)
            with suppress(Conflict):
                cancel(harness.db, job_id)

        with ThreadPoolExecutor(5) as pool:
            works = [pool.submit(settle), *[pool.submit(end, job_id) for job_id in jobs[:4]]]
            for work in works:
                work.result(30)
        states = {harness.job(job_id).state for job_id in jobs}
        assert states <= {JobState.COMPLETED, JobState.CANCELLED}
        assert harness.batch(batch_id).state is BatchState.SETTLED


def test_what_is_let_in_while_jobs_are_cancelled_is_sent_or_ends_and_never_both(
    harness: Harness,
) -> None:
    for _ in range(5):
        jobs = [harness.submitted(1) for _ in range(30)]
        start = Barrier(3)

        def let_in(start: Barrier = start) -> None:
            start.wait(10)
            for _ in range(5):
                wide = Capacity(batches=None, tokens=10**12)
                admit(harness.db, limit=3, capacity=wide, limits=FOURS)

        def end(some: Sequence[UUID], start: Barrier = start) -> None:
            start.wait(10)
            for job_id in some:
                cancel(harness.db, job_id)

        with ThreadPoolExecutor(3) as pool:
            works = [pool.submit(let_in), pool.submit(end, jobs[::3]), pool.submit(end, jobs[1::3])]
            for work in works:
                work.result(30)
        let_in(Barrier(1))
        unended = """
            SELECT j.id FROM haulier.jobs j JOIN haulier.parts p ON p.job_id = j.id
            LEFT JOIN haulier.batches b ON b.id = p.batch_id
            WHERE j.cancel_requested_at IS NOT NULL AND b.ending IS NULL
        """
        assert harness.rows(unended) == []
        wrong = """
            SELECT b.id FROM haulier.batches b JOIN LATERAL (
              SELECT count(*) AS parts, sum(requests) AS requests FROM haulier.parts p
              WHERE p.batch_id = b.id) p ON true
            WHERE b.parts <> p.parts OR b.requests <> p.requests
        """
        assert harness.rows(wrong) == []


FOURS = Limits(requests=4, bytes=10**9, wait=timedelta(0))
