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
from sqlalchemy.exc import IntegrityError, OperationalError

from service.errors import MOST_PROBLEMS, BadInput, Conflict, Problem
from service.intake import Taken
from service.models import Base, Batch, Job
from service.spec import Spec
from service.states import BatchState, JobState, Stage
from service.store import engine, heartbeats, schema
from service.store import jobs as looking
from service.store.due import dispatch, outstanding
from service.store.engine import Database, is_unavailable
from service.store.schema import is_migrated, migrate
from service.store.submit import Submission, submit
from service.work import Advance, Assembled, Pause, Wait
from tests.factories import LEASE, House, settlement, shard, spec
from tests.servers import Databases

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
JOBS = frozenset({Stage.SPLIT, Stage.ASSEMBLE})
UPLOADS = frozenset({Stage.UPLOAD})
OPEN = frozenset({Stage.UPLOAD, Stage.CREATE, Stage.POLL, Stage.FETCH})


@pytest.fixture(scope="module")
def _house(databases: Databases) -> Iterator[House]:
    url = databases.create()
    made = engine.create(url, pool_size=20)
    yield House(engine.database(made))
    made.dispose()
    databases.drop(url)


@pytest.fixture
def house(_house: House) -> House:
    """An empty house: one database for all of these tests, swept before each."""
    _house.sweep()
    return _house


def _submission(*, sha256: str = "0" * 64, id: UUID | None = None, **fields: Any) -> Submission:  # noqa: A002
    taken = Taken(3, (shard(3),), sha256)
    producer = fields.pop("producer", "default")
    return Submission(id=id or uuid4(), producer=producer, spec=spec(**fields), taken=taken)


# --- submitting ---------------------------------------------------------------------------------


def test_a_submitted_job_stands_as_it_was_asked_for(house: House) -> None:
    asked = _submission(priority=7, max_attempts=5, metadata={"team": "search"})
    (submitted,) = submit(house.db, [asked])
    assert submitted.new
    job = house.job(asked.id)
    assert (job.state, job.priority, job.max_attempts) == (JobState.ACCEPTED, 7, 5)
    assert (job.labels, job.total, job.pending) == ({"team": "search"}, 3, 3)


def test_a_redelivered_message_finds_its_job(house: House) -> None:
    asked = _submission()
    assert submit(house.db, [asked])[0].new
    (again,) = submit(house.db, [asked])
    assert (again.id, again.new) == (asked.id, False)
    events = house.rows("SELECT count(*) FROM haulier.events WHERE job_id = :id", id=asked.id)
    assert list(events) == [1]


def test_the_same_key_and_content_find_the_first_job(house: House) -> None:
    first = _submission(idempotency_key="k")
    second = _submission(idempotency_key="k")
    assert submit(house.db, [first])[0].new
    (found,) = submit(house.db, [second])
    assert (found.id, found.new) == (first.id, False)


@pytest.mark.parametrize(
    "other", [{"sha256": "1" * 64}, {"max_attempts": 9}, {"metadata": {"x": 1}}], ids=str
)
def test_the_same_key_with_other_content_is_a_conflict(house: House, other: dict[str, Any]) -> None:
    first = _submission(idempotency_key="k")
    submit(house.db, [first])
    with pytest.raises(Conflict, match=f"'k' was used for job {first.id} with other content"):
        submit(house.db, [_submission(idempotency_key="k", **other)])
    assert len(house.rows("SELECT id FROM haulier.jobs")) == 1


def test_a_key_belongs_to_its_producer(house: House) -> None:
    one = _submission(idempotency_key="k")
    other = _submission(idempotency_key="k", producer="other", sha256="1" * 64)
    assert [s.new for s in submit(house.db, [one, other])] == [True, True]


def test_jobs_without_a_key_are_never_the_same(house: House) -> None:
    assert [s.new for s in submit(house.db, [_submission(), _submission()])] == [True, True]


def test_one_page_may_hold_everything(house: House) -> None:
    known = _submission()
    submit(house.db, [known])
    keyed = _submission(idempotency_key="k")
    same = _submission(idempotency_key="k")
    bad = BadInput([Problem("oops\x00", 3)])
    refused = Submission(id=uuid4(), producer="new", spec=Spec(endpoint=""), bad=bad)
    unread = Submission(id=uuid4(), producer="default", spec=Spec(endpoint="e", input="s3://b/a"))
    stored = submit(house.db, [refused, same, known, keyed, unread])
    assert [found.new for found in stored][2:] == [False, stored[3].new, True]
    assert stored[1].id == stored[3].id
    assert {stored[1].new, stored[3].new} == {True, False}
    rejected = house.job(refused.id)
    assert (rejected.state, rejected.error) == (JobState.REJECTED, "line 3: oops\ufffd")
    assert rejected.problems == [{"line": 3, "message": "oops\ufffd"}]
    assert rejected.finished_at is not None
    assert house.job(unread.id).plan is None
    assert house.job(unread.id).input == "s3://b/a"


def test_a_rejected_job_leaves_its_key_to_its_mended_successor(house: House) -> None:
    bad = BadInput([Problem("oops", n) for n in range(MOST_PROBLEMS)], more=5)
    asked = spec(idempotency_key="k")
    submit(house.db, [Submission(id=uuid4(), producer="default", spec=asked, bad=bad)])
    assert submit(house.db, [_submission(idempotency_key="k")])[0].new


def test_a_page_with_a_conflict_stores_nothing(house: House) -> None:
    submit(house.db, [_submission(idempotency_key="k")])
    page = [_submission(), _submission(idempotency_key="k", sha256="1" * 64)]
    with pytest.raises(Conflict):
        submit(house.db, page)
    assert len(house.rows("SELECT id FROM haulier.jobs")) == 1


@pytest.mark.parametrize("by", ["key", "id"])
def test_fifty_at_once_are_one_job(house: House, by: str) -> None:
    start = Barrier(20)
    same = uuid4()

    def send(number: int) -> tuple[UUID, bool]:
        asked = _submission(idempotency_key="k", id=same if by == "id" else None)
        if number < 20:
            start.wait(20)
        (done,) = submit(house.db, [asked])
        return done.id, done.new

    with ThreadPoolExecutor(20) as threads:
        found = list(threads.map(send, range(50)))
    assert len({job_id for job_id, _ in found}) == 1
    assert [new for _, new in found].count(True) == 1
    assert len(house.rows("SELECT id FROM haulier.jobs")) == 1
    assert len(house.rows("SELECT id FROM haulier.events")) == 1


# --- dispatching --------------------------------------------------------------------------------


def _sent(house: House, limit: int = 100, *, again: timedelta = MINUTE) -> list[UUID]:
    return [row.id for row in dispatch(house.db, Batch, UPLOADS, limit=limit, again=again)]


def test_what_is_due_is_sent_once(house: House) -> None:
    ids = house.split(1, 1, 1)
    assert sorted(_sent(house)) == sorted(ids)
    assert _sent(house) == []
    assert outstanding(house.db, Batch, UPLOADS, again=MINUTE) == 3


def test_what_was_sent_comes_again_when_its_message_has_expired(house: House) -> None:
    ids = house.split(1, 1)
    _sent(house)
    house.run(
        "UPDATE haulier.batches SET dispatched_at = now() - interval '61 s' WHERE id = :id",
        id=ids[0],
    )
    assert outstanding(house.db, Batch, UPLOADS, again=MINUTE) == 1
    assert _sent(house) == [ids[0]]


@pytest.mark.parametrize("limit", [-5, 0, 1, 2, 7])
def test_no_more_than_the_window_is_sent(house: House, limit: int) -> None:
    house.split(*[1] * 5)
    assert len(_sent(house, limit)) == max(0, min(limit, 5))


def test_the_highest_priority_goes_first_then_the_longest_due(house: House) -> None:
    low = house.queued(priority=-1)
    first = house.queued()
    second = house.queued()
    high = house.queued(priority=9)
    house.run("UPDATE haulier.batches SET not_before = now() - interval '1 h' WHERE id = :i", i=low)
    house.run(
        "UPDATE haulier.batches SET not_before = now() - interval '1 min' WHERE id = :i", i=first
    )
    order = [_sent(house, 1)[0] for _ in range(4)]
    assert order == [high, first, second, low]


def test_what_is_leased_parked_or_not_due_is_not_sent(house: House) -> None:
    leased, parked, later, due = house.split(1, 1, 1, 1)
    house.claim(leased, Stage.UPLOAD)
    house.run("UPDATE haulier.batches SET parked_at = now() WHERE id = :id", id=parked)
    house.apply(house.claim(later, Stage.UPLOAD), Wait(MINUTE))
    assert _sent(house) == [due]
    assert outstanding(house.db, Batch, UPLOADS, again=MINUTE) == 2


def test_an_expired_lease_is_sent_again(house: House) -> None:
    batch_id = house.queued()
    house.claim(batch_id, Stage.UPLOAD)
    house.expire_lease(batch_id)
    assert _sent(house) == [batch_id]


def test_a_paused_account_is_passed_over(house: House) -> None:
    paused, other = house.split(1, 1)
    house.run("UPDATE haulier.batches SET account = 'other' WHERE id = :id", id=other)
    house.apply(house.claim(paused, Stage.UPLOAD), Pause("401", blocked=True))
    assert _sent(house) == [other]
    house.run("UPDATE haulier.accounts SET paused_until = now()")
    assert _sent(house) == [paused]


def test_the_next_link_of_a_chain_is_not_sent_twice(house: House) -> None:
    batch_id = house.queued()
    house.advance(batch_id, BatchState.UPLOADED)
    assert dispatch(house.db, Batch, OPEN, limit=9, again=MINUTE) == []
    assert outstanding(house.db, Batch, OPEN, again=MINUTE) == 1


def test_a_batch_sent_back_is_sent_at_once(house: House) -> None:
    batch_id = house.uploaded()
    house.claim(batch_id, Stage.CREATE)
    house.expire_lease(batch_id)
    house.apply(house.claim(batch_id, Stage.CREATE), Advance(BatchState.QUEUED))
    assert _sent(house) == [batch_id]


def test_several_schedulers_send_every_row_once(house: House) -> None:
    ids = house.split(*[1] * 60)
    start = Barrier(4)

    def tick(_: int) -> list[UUID]:
        start.wait(10)
        return [row for _ in range(4) for row in _sent(house, 7)]

    with ThreadPoolExecutor(4) as threads:
        sent = [row for found in threads.map(tick, range(4)) for row in found]
    assert len(sent) == len(set(sent))
    assert sorted([*sent, *_sent(house)]) == sorted(ids)


def test_a_job_is_sent_to_split_and_later_to_assemble_only(house: House) -> None:
    def sent() -> list[tuple[Stage, UUID]]:
        found = dispatch(house.db, Job, JOBS, limit=9, again=MINUTE)
        return [(row.stage, row.id) for row in found]

    accepted = house.submitted()
    assert sent() == [(Stage.SPLIT, accepted)]
    batch_id = house.queued()
    assert sent() == []
    house.settle(batch_id, settlement(3))
    job_id = house.batch(batch_id).job_id
    assert sent() == [(Stage.ASSEMBLE, job_id)]
    house.apply(house.claim_job(job_id, Stage.ASSEMBLE), Assembled(()))
    assert sent() == []
    assert outstanding(house.db, Job, JOBS, again=MINUTE) == 1


# --- looking ------------------------------------------------------------------------------------


def test_a_job_of_another_producer_is_not_there(house: House) -> None:
    asked = _submission(producer="one")
    submit(house.db, [asked])
    assert looking.job(house.db, asked.id, "two") is None
    assert looking.job(house.db, asked.id, "one") is not None
    assert looking.job(house.db, asked.id, None) is not None
    assert looking.jobs(house.db, producer="two", limit=9) == []


def test_pages_of_jobs_show_each_once_newest_first(house: House) -> None:
    submit(house.db, [_submission() for _ in range(7)])  # one instant for all of them
    submit(house.db, [_submission()])
    seen: list[Job] = []
    before = None
    while page := looking.jobs(house.db, producer="default", before=before, limit=3):
        seen += page
        before = (page[-1].created_at, page[-1].id)
    keys = [(job.created_at, job.id) for job in seen]
    assert keys == sorted(keys, reverse=True)
    assert len(set(keys)) == 8
    running = looking.jobs(house.db, producer=None, states=[JobState.RUNNING], limit=9)
    assert running == []


def test_pages_of_batches_events_and_failures_show_each_once(house: House) -> None:
    ids = house.split(*[1] * 5)
    job_id = house.batch(ids[0]).job_id
    for number, batch_id in enumerate(ids):
        house.settle(batch_id, settlement(0, dead=[number]))
    seen: list[UUID] = []
    after = None
    while page := looking.batches(house.db, job_id, after=after, limit=2):
        seen += [batch.id for batch in page]
        after = (page[-1].shard, page[-1].created_at, page[-1].id)
    assert seen == ids
    events = looking.events(house.db, job_id, after=0, limit=4)
    rest = looking.events(house.db, job_id, after=events[-1].id, limit=99)
    assert [e.id for e in events + rest] == sorted(e.id for e in events + rest)
    assert len(events + rest) == 2 + 5 * 5
    letters = looking.failures(house.db, job_id, after=-1, limit=3)
    assert [letter.ordinal for letter in letters] == [0, 1, 2]
    letters = looking.failures(house.db, job_id, after=2, limit=3)
    assert [letter.ordinal for letter in letters] == [3, 4]


def test_slots_are_those_of_workers_that_were_seen_lately(house: House) -> None:
    def beat(name: str, kind: str, queues: list[str], slots: int) -> None:
        heartbeats.beat(house.db, name=name, kind=kind, host="h", pid=1, queues=queues, slots=slots)

    beat("a", "worker", ["transfer", "control"], 2)
    beat("b", "worker", ["transfer"], 4)
    beat("c", "scheduler", ["transfer"], 8)
    beat("d", "worker", ["transfer"], 16)
    house.run("UPDATE haulier.heartbeats SET seen_at = now() - interval '1 h' WHERE id = 'd'")
    assert heartbeats.slots(house.db, "transfer", within=MINUTE) == 6
    assert heartbeats.slots(house.db, "control", within=MINUTE) == 2
    heartbeats.gone(house.db, "b")
    beat("a", "worker", ["transfer"], 3)
    assert heartbeats.slots(house.db, "transfer", within=MINUTE) == 3
    assert heartbeats.slots(house.db, "nothing", within=MINUTE) == 0


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
    house: House, databases: Databases
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
        assert _checks(plain) == {c for c in _checks(house.db) if "alembic" not in c}
        with plain() as session, house.db() as migrated:
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


def test_a_database_that_is_not_there_is_unavailable_not_broken() -> None:
    made = engine.create("postgresql://app:x@127.0.0.1:1/none")
    with pytest.raises(OperationalError) as refused, made.connect():
        pass
    assert is_unavailable(refused.value)


def test_a_broken_rule_is_not_taken_for_an_absent_database(house: House) -> None:
    house.queued()
    with pytest.raises(IntegrityError) as broken:
        house.run("UPDATE haulier.jobs SET pending = -1")
    assert not is_unavailable(broken.value)


def test_a_connection_that_was_ended_is_replaced(house: House) -> None:
    job_id = house.submitted()
    house.job(job_id)
    house.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    house.claim_job(job_id, Stage.SPLIT, LEASE)
