"""Submitting and dispatching on real Postgres, from several places at once; and the schema."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from service.payloads.intake import Taken
from service.rules.errors import MOST_PROBLEMS, BadInput, Conflict, Problem
from service.rules.outcomes import Advance, Fail, Pause, Wait
from service.rules.spec import Spec
from service.rules.states import BatchState, JobState, Stage
from service.store import engine, heartbeats, schema
from service.store import jobs as looking
from service.store.cancel import cancel
from service.store.due import dispatch
from service.store.engine import Database, is_contended, is_unavailable
from service.store.models import Base, Batch, Job
from service.store.revisions import is_migrated
from service.store.schema import migrate
from service.store.submit import Submission
from tests.factories import (
    LEASE,
    Harness,
    mingled,
    settlement,
    shard,
    spec,
    submit,
)
from tests.servers import Databases

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
JOBS = frozenset({Stage.SPLIT, Stage.ASSEMBLE})
UPLOADS = frozenset({Stage.UPLOAD})
OPEN = frozenset({Stage.UPLOAD, Stage.CREATE, Stage.POLL, Stage.FETCH})


@pytest.fixture(scope="module")
def _harness(databases: Databases) -> Iterator[Harness]:
    url = databases.create()
    made = engine.create(url, pool_size=20)
    yield Harness(engine.database(made))
    made.dispose()
    databases.drop(url)


@pytest.fixture
def harness(_harness: Harness) -> Harness:
    """An empty harness: one database for all of these tests, swept before each."""
    _harness.sweep()
    return _harness


def _submission(*, sha256: str = "0" * 64, id: UUID | None = None, **fields: Any) -> Submission:  # noqa: A002
    taken = Taken(3, (shard(3),), sha256)
    producer = fields.pop("producer", "default")
    return Submission(id=id or uuid4(), producer=producer, spec=spec(**fields), taken=taken)


# --- submitting ---------------------------------------------------------------------------------


def test_a_submitted_job_stands_as_it_was_asked_for(harness: Harness) -> None:
    asked = _submission(priority=7, max_attempts=5, metadata={"team": "search"})
    (submitted,) = submit(harness.db, [asked])
    assert submitted.new
    job = harness.job(asked.id)
    assert (job.state, job.priority, job.max_attempts) == (JobState.RUNNING, 7, 5)
    assert (job.labels, job.total, job.pending) == ({"team": "search"}, 3, 3)


def test_a_redelivered_message_finds_its_job(harness: Harness) -> None:
    asked = _submission()
    assert submit(harness.db, [asked])[0].new
    (again,) = submit(harness.db, [asked])
    assert (again.id, again.new) == (asked.id, False)
    events = harness.rows("SELECT count(*) FROM haulier.events WHERE job_id = :id", id=asked.id)
    assert list(events) == [1]


def test_the_same_key_and_content_find_the_first_job(harness: Harness) -> None:
    first = _submission(idempotency_key="k")
    second = _submission(idempotency_key="k")
    assert submit(harness.db, [first])[0].new
    (found,) = submit(harness.db, [second])
    assert (found.id, found.new) == (first.id, False)


@pytest.mark.parametrize(
    "other", [{"sha256": "1" * 64}, {"max_attempts": 9}, {"metadata": {"x": 1}}], ids=str
)
def test_the_same_key_with_other_content_is_a_conflict(
    harness: Harness, other: dict[str, Any]
) -> None:
    first = _submission(idempotency_key="k")
    submit(harness.db, [first])
    with pytest.raises(Conflict, match=f"'k' was used for job {first.id} with other content"):
        submit(harness.db, [_submission(idempotency_key="k", **other)])
    assert len(harness.rows("SELECT id FROM haulier.jobs")) == 1


def test_a_key_belongs_to_its_producer(harness: Harness) -> None:
    one = _submission(idempotency_key="k")
    other = _submission(idempotency_key="k", producer="other", sha256="1" * 64)
    assert [s.new for s in submit(harness.db, [one, other])] == [True, True]


def test_jobs_without_a_key_are_never_the_same(harness: Harness) -> None:
    assert [s.new for s in submit(harness.db, [_submission(), _submission()])] == [True, True]


def test_one_page_may_hold_everything(harness: Harness) -> None:
    known = _submission()
    submit(harness.db, [known])
    keyed = _submission(idempotency_key="k")
    same = _submission(idempotency_key="k")
    bad = BadInput([Problem("oops\x00", 3)])
    refused = Submission(id=uuid4(), producer="new", spec=Spec(endpoint=""), bad=bad)
    unread = Submission(id=uuid4(), producer="default", spec=Spec(endpoint="e", input="s3://b/a"))
    stored = submit(harness.db, [refused, same, known, keyed, unread])
    assert [found.new for found in stored][2:] == [False, stored[3].new, True]
    assert stored[1].id == stored[3].id
    assert {stored[1].new, stored[3].new} == {True, False}
    rejected = harness.job(refused.id)
    assert (rejected.state, rejected.error) == (JobState.REJECTED, "line 3: oops\ufffd")
    assert rejected.problems == [{"line": 3, "message": "oops\ufffd"}]
    assert rejected.finished_at is not None
    assert harness.job(unread.id).state is JobState.ACCEPTED
    assert harness.job(same.id if stored[1].new else keyed.id).state is JobState.RUNNING
    assert harness.job(unread.id).input == "s3://b/a"


def test_a_rejected_job_leaves_its_key_to_its_mended_successor(harness: Harness) -> None:
    bad = BadInput([Problem("oops", n) for n in range(MOST_PROBLEMS)], more=5)
    asked = spec(idempotency_key="k")
    submit(harness.db, [Submission(id=uuid4(), producer="default", spec=asked, bad=bad)])
    assert submit(harness.db, [_submission(idempotency_key="k")])[0].new


@pytest.mark.parametrize("by", ["key", "id"])
def test_fifty_at_once_are_one_job(harness: Harness, by: str) -> None:
    start = Barrier(20)
    same = uuid4()

    def send(number: int) -> tuple[UUID, bool]:
        asked = _submission(idempotency_key="k", id=same if by == "id" else None)
        if number < 20:
            start.wait(20)
        (done,) = submit(harness.db, [asked])
        return done.id, done.new

    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(send, range(50)))
    assert len({job_id for job_id, _ in found}) == 1
    assert [new for _, new in found].count(True) == 1
    assert len(harness.rows("SELECT id FROM haulier.jobs")) == 1
    assert len(harness.rows("SELECT id FROM haulier.events")) == 1


# --- dispatching --------------------------------------------------------------------------------


def _sent(harness: Harness, limit: int = 100, *, again: timedelta = MINUTE) -> list[UUID]:
    return [row.id for row in dispatch(harness.db, Batch, UPLOADS, limit=limit, again=again)]


def test_what_is_due_is_sent_once(harness: Harness) -> None:
    ids = harness.split(1, 1, 1)
    assert sorted(_sent(harness)) == sorted(ids)
    assert _sent(harness) == []


def test_what_was_sent_comes_again_when_its_message_has_expired(harness: Harness) -> None:
    ids = harness.split(1, 1)
    _sent(harness)
    harness.run(
        "UPDATE haulier.batches SET dispatched_at = now() - interval '61 s' WHERE id = :id",
        id=ids[0],
    )
    assert _sent(harness) == [ids[0]]


@pytest.mark.parametrize("limit", [-5, 0, 1, 2, 7])
def test_no_more_than_the_window_is_sent(harness: Harness, limit: int) -> None:
    harness.split(*[1] * 5)
    assert len(_sent(harness, limit)) == max(0, min(limit, 5))


def test_the_highest_priority_goes_first_then_the_longest_due(harness: Harness) -> None:
    low = harness.queued(priority=0)
    first = harness.queued(priority=1)
    second = harness.queued(priority=1)
    high = harness.queued(priority=9)
    harness.run(
        "UPDATE haulier.batches SET not_before = now() - interval '1 h' WHERE id = :i", i=low
    )
    harness.run(
        "UPDATE haulier.batches SET not_before = now() - interval '1 min' WHERE id = :i", i=first
    )
    order = [_sent(harness, 1)[0] for _ in range(4)]
    assert order == [high, first, second, low]


def test_what_is_leased_parked_or_not_due_is_not_sent(harness: Harness) -> None:
    leased, parked, later, due = harness.split(1, 1, 1, 1)
    harness.claim(leased, Stage.UPLOAD)
    harness.run("UPDATE haulier.batches SET parked_at = now() WHERE id = :id", id=parked)
    harness.apply(harness.claim(later, Stage.UPLOAD), Wait(MINUTE))
    assert _sent(harness) == [due]


def test_an_expired_lease_is_sent_again(harness: Harness) -> None:
    batch_id = harness.queued()
    harness.claim(batch_id, Stage.UPLOAD)
    harness.expire_lease(batch_id)
    assert _sent(harness) == [batch_id]


def test_a_paused_account_is_passed_over(harness: Harness) -> None:
    paused, other = harness.split(1, 1)
    harness.run("UPDATE haulier.batches SET account = 'other' WHERE id = :id", id=other)
    harness.apply(harness.claim(paused, Stage.UPLOAD), Pause("401", blocked=True))
    assert _sent(harness) == [other]
    harness.run("UPDATE haulier.accounts SET paused_until = now()")
    assert _sent(harness) == [paused]


def test_the_next_link_of_a_chain_is_not_sent_twice(harness: Harness) -> None:
    batch_id = harness.queued()
    harness.advance(batch_id, BatchState.UPLOADED)
    assert dispatch(harness.db, Batch, OPEN, limit=9, again=MINUTE) == []


def test_a_batch_sent_back_is_sent_at_once(harness: Harness) -> None:
    batch_id = harness.uploaded()
    harness.claim(batch_id, Stage.CREATE)
    harness.expire_lease(batch_id)
    harness.apply(harness.claim(batch_id, Stage.CREATE), Advance(BatchState.QUEUED))
    assert _sent(harness) == [batch_id]


def test_several_schedulers_send_every_row_once(harness: Harness) -> None:
    ids = harness.split(*[1] * 60)
    start = Barrier(4)

    def tick(_: int) -> list[UUID]:
        start.wait(10)
        return [row for _ in range(4) for row in _sent(harness, 7)]

    with ThreadPoolExecutor(4) as threads:
        sent = [row for found in threads.map(tick, range(4)) for row in found]
    assert len(sent) == len(set(sent))
    assert sorted([*sent, *_sent(harness)]) == sorted(ids)


def test_producers_take_turns_before_their_jobs_are_cut(harness: Harness) -> None:
    many = [harness.unread(producer="many", priority=9) for _ in range(20)]
    few = [harness.unread(producer="few") for _ in range(2)]
    late = harness.unread(producer="late")

    def sent(limit: int) -> list[UUID]:
        return [due.id for due in dispatch(harness.db, Job, JOBS, limit=limit, again=MINUTE)]

    first = sent(3)
    assert {late} < set(first)
    assert len({*few} & {*first}) == 1
    # What is under way counts: whoever has had its turn comes after those that have not.
    for job_id in first:
        harness.claim_job(job_id, Stage.SPLIT)
    second = sent(2)
    assert len({*few} & {*second}) == 1
    assert len({*many} & {*second}) == 1


def _to_assemble(harness: Harness) -> UUID:
    """A job whose results are still to be merged."""
    first, second = harness.split(1, 1)
    for batch_id in (first, second):
        harness.settle(batch_id, settlement(1, final_lines=mingled()))
    return harness.part(first).job_id


def test_what_is_still_to_be_read_leaves_slots_to_others(harness: Harness) -> None:
    huge = [harness.unread() for _ in range(10)]
    known = [_to_assemble(harness) for _ in range(3)]

    def sent() -> set[UUID]:
        found = dispatch(harness.db, Job, JOBS, limit=9, again=MINUTE, most_reads=2)
        return {due.id for due in found}

    first = sent()
    assert (len(first & {*huge}), first & {*known}) == (2, {*known})
    assert sent() == set()
    being_read = next(iter(first & {*huge}))
    harness.apply(harness.claim_job(being_read, Stage.SPLIT), Fail("no", rejected=True))
    assert len(sent()) == 1


def test_of_a_held_lane_and_a_paused_account_nothing_is_sent_but_what_ends(
    harness: Harness,
) -> None:
    held, cancelled, open_ = harness.queued(), harness.queued(), harness.queued()
    harness.run("UPDATE haulier.batches SET model = 'open' WHERE id = :id", id=open_)
    harness.run(
        "INSERT INTO haulier.lanes (account, endpoint, model, held_until)"
        " SELECT account, endpoint, model, now() + interval '1 h' FROM haulier.batches"
        " WHERE id = :id",
        id=held,
    )
    cancel(harness.db, harness.part(cancelled).job_id)
    assert set(_sent(harness)) == {cancelled, open_}


def test_a_job_is_sent_to_split_and_later_to_assemble_only(harness: Harness) -> None:
    def sent() -> list[tuple[Stage, UUID]]:
        found = dispatch(harness.db, Job, JOBS, limit=9, again=MINUTE)
        return [(row.stage, row.id) for row in found]

    accepted = harness.unread()
    assert sent() == [(Stage.SPLIT, accepted)]
    first, second = harness.split(2, 2)
    assert sent() == []
    harness.settle(first, settlement(2, final_lines=mingled()))
    harness.settle(second, settlement(2, final_lines=mingled()))
    job_id = harness.part(first).job_id
    assert sent() == [(Stage.ASSEMBLE, job_id)]
    harness.end(job_id)
    assert sent() == []
    harness.settle(harness.queued(), settlement(3))
    assert sent() == []


# --- looking ------------------------------------------------------------------------------------


def test_a_job_of_another_producer_is_not_there(harness: Harness) -> None:
    asked = _submission(producer="one")
    submit(harness.db, [asked])
    assert looking.job(harness.db, asked.id, "two") is None
    assert looking.job(harness.db, asked.id, "one") is not None
    assert looking.job(harness.db, asked.id, None) is not None
    assert looking.jobs(harness.db, producer="two", limit=9) == []


def test_pages_of_jobs_show_each_once_newest_first(harness: Harness) -> None:
    submit(harness.db, [_submission() for _ in range(7)])  # one instant for all of them
    submit(harness.db, [_submission()])
    seen: list[Job] = []
    before = None
    while page := looking.jobs(harness.db, producer="default", before=before, limit=3):
        seen += page
        before = (page[-1].created_at, page[-1].id)
    keys = [(job.created_at, job.id) for job in seen]
    assert keys == sorted(keys, reverse=True)
    assert len(set(keys)) == 8
    ended = looking.jobs(harness.db, producer=None, states=[JobState.COMPLETED], limit=9)
    assert ended == []


def test_pages_of_batches_events_and_failures_show_each_once(harness: Harness) -> None:
    ids = harness.split(*[1] * 5)
    job_id = harness.part(ids[0]).job_id
    for number, batch_id in enumerate(ids):
        harness.settle(batch_id, settlement(0, dead=[number]))
    seen: list[UUID] = []
    after = None
    while page := looking.parts(harness.db, job_id, after=after, limit=2):
        seen += [batch.id for _, batch in page if batch is not None]
        last = page[-1][0]
        after = (last.shard, last.created_at, last.id)
    assert seen == ids
    events = looking.events(harness.db, job_id, after=0, limit=4)
    rest = looking.events(harness.db, job_id, after=events[-1].id, limit=99)
    assert [e.id for e in events + rest] == sorted(e.id for e in events + rest)
    assert len(events + rest) == 2 + 5 * 5
    letters = looking.failures(harness.db, job_id, after=-1, limit=3)
    assert [letter.ordinal for letter in letters] == [0, 1, 2]
    letters = looking.failures(harness.db, job_id, after=2, limit=3)
    assert [letter.ordinal for letter in letters] == [3, 4]


def test_slots_are_those_of_workers_that_were_seen_lately(harness: Harness) -> None:
    def beat(name: str, kind: str, queues: list[str], slots: int) -> None:
        heartbeats.beat(
            harness.db, name=name, kind=kind, host="h", pid=1, queues=queues, slots=slots
        )

    beat("a", "worker", ["transfer", "control"], 2)
    beat("b", "worker", ["transfer"], 4)
    beat("c", "scheduler", ["transfer"], 8)
    beat("d", "worker", ["transfer"], 16)
    harness.run("UPDATE haulier.heartbeats SET seen_at = now() - interval '1 h' WHERE id = 'd'")
    assert heartbeats.slots(harness.db, "transfer", within=MINUTE) == 6
    assert heartbeats.slots(harness.db, "control", within=MINUTE) == 2
    heartbeats.gone(harness.db, "b")
    beat("a", "worker", ["transfer"], 3)
    assert heartbeats.slots(harness.db, "transfer", within=MINUTE) == 3
    assert heartbeats.slots(harness.db, "nothing", within=MINUTE) == 0


# --- the schema ---------------------------------------------------------------------------------


def test_the_models_are_the_migrated_schema(database_url: str) -> None:
    with schema._migrating(database_url) as connection:
        # A role named like the schema makes it the default one, which Alembic looks at by no name.
        connection.execute(text("SET search_path = public"))
        connection.dialect.default_schema_name = "public"
        config = schema._config()
        config.attributes["connection"] = connection
        command.check(config)  # raises where a new revision would hold anything


def _checks(db: Database) -> set[str]:
    with db() as session:
        return set(
            session.scalars(
                text(
                    "SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid))"
                    " FROM pg_constraint WHERE connamespace = 'haulier'::regnamespace"
                )
            )
        )


def test_every_check_and_partial_index_of_the_models_is_there(
    harness: Harness, databases: Databases
) -> None:
    """Alembic compares neither checks nor the conditions of indexes: build both and compare."""
    url = databases.create_empty()
    made = engine.create(url)
    plain = engine.database(made)
    indexes = text("SELECT indexdef FROM pg_indexes WHERE schemaname = 'haulier' ORDER BY 1")
    try:
        with plain.begin() as session:
            session.execute(text("CREATE SCHEMA haulier"))
            Base.metadata.create_all(session.connection())
        assert _checks(plain) == {c for c in _checks(harness.db) if "alembic" not in c}
        with plain() as session, harness.db() as migrated:
            built = set(session.scalars(indexes))
            assert built == {i for i in migrated.scalars(indexes) if "alembic" not in i}
    finally:
        made.dispose()
        databases.drop(url)


def test_migrating_from_several_places_at_once_works(empty_database_url: str) -> None:
    made = engine.create(empty_database_url)
    db = engine.database(made)
    assert not is_migrated(db)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(migrate, [empty_database_url] * 4))
    assert is_migrated(db)
    migrate(empty_database_url)
    made.dispose()


@pytest.mark.parametrize(
    ("statement", "unavailable", "contended"),
    [
        ("SET TRANSACTION READ ONLY; CREATE TABLE haulier.x ()", True, False),
        ("SET LOCAL statement_timeout = 10; SELECT pg_sleep(5)", True, True),
        ("DO $$ BEGIN RAISE deadlock_detected; END $$", True, True),
        ("DO $$ BEGIN RAISE serialization_failure; END $$", True, True),
        ("DO $$ BEGIN RAISE admin_shutdown; END $$", True, False),
        ("DO $$ BEGIN RAISE disk_full; END $$", True, False),
        ("DO $$ BEGIN RAISE program_limit_exceeded; END $$", False, False),
        ("SELECT 10000000000000000000::bigint", False, False),
        ("SELECT 1 / 0", False, False),
    ],
)
def test_an_error_of_postgres_is_read_by_its_sqlstate(
    harness: Harness, statement: str, *, unavailable: bool, contended: bool
) -> None:
    with pytest.raises(DBAPIError) as raised, harness.db.begin() as session:
        session.connection().exec_driver_sql(statement)
    assert is_unavailable(raised.value) is unavailable
    assert is_contended(raised.value) is contended


def test_a_database_that_is_not_there_is_unavailable_not_broken() -> None:
    made = engine.create("postgresql://app:x@127.0.0.1:1/none")
    with pytest.raises(OperationalError) as refused, made.connect():
        pass
    assert is_unavailable(refused.value)


def test_a_broken_rule_is_not_taken_for_an_absent_database(harness: Harness) -> None:
    harness.queued()
    with pytest.raises(IntegrityError) as broken:
        harness.run("UPDATE haulier.jobs SET pending = -1")
    assert not is_unavailable(broken.value)


def test_a_connection_that_was_ended_is_replaced(harness: Harness) -> None:
    job_id = harness.unread()
    harness.job(job_id)
    harness.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    harness.claim_job(job_id, Stage.SPLIT, LEASE)
