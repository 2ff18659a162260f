"""Admitting batches, on real rows: capacity of a lane, fairness, and why a job waits."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from uuid import UUID

import pytest
from sqlalchemy.exc import IntegrityError

from service.rules.admission import Capacity
from service.rules.lanes import Phase
from service.rules.outcomes import Advance, Changes, Park, Pause, Retry, Settle, Usage, Wait
from service.rules.packing import LARGE, RENAMED, Limits
from service.rules.states import BatchState, JobState, LaneState, Stage
from service.rules.work import Ending
from service.store import engine
from service.store.apply import apply
from service.store.cancel import cancel
from service.store.claim import claim_batches
from service.store.due import dispatch
from service.store.models import Batch
from service.store.parts import parts_of
from service.store.waiting import Reason, why
from tests.factories import (
    AT_ONCE,
    LEASE,
    MODEL,
    Harness,
    admit,
    ill_lane,
    mingled,
    settlement,
)
from tests.servers import Databases

WIDE = Capacity(batches=None, tokens=10**12)


@pytest.fixture(scope="module")
def _harness(databases: Databases) -> Iterator[Harness]:
    url = databases.create()
    connections = engine.create(url, pool_size=4)
    yield Harness(engine.database(connections))
    connections.dispose()
    databases.drop(url)


@pytest.fixture
def harness(_harness: Harness) -> Harness:
    """An empty harness: one database for all of these tests, swept before each."""
    _harness.sweep()
    return _harness


ALONE = Limits(requests=1, bytes=10**9, wait=timedelta(0))
"""Each part has a batch of its own."""


def batches(
    harness: Harness,
    limit: int = 100,
    capacity: Capacity = WIDE,
    limits: Limits = ALONE,
) -> list[UUID]:
    """Let in what may go, and say which batches it went into."""
    return [due.id for due in admit(harness.db, limit=limit, capacity=capacity, limits=limits)]


def let_in(harness: Harness, limit: int = 100, capacity: Capacity = WIDE) -> list[UUID]:
    """Let in what may go, each part by itself, and say which parts these are."""
    return [harness.part(batch_id).id for batch_id in batches(harness, limit, capacity)]


def batch_of(harness: Harness, part_id: UUID) -> UUID:
    (batch_id,) = harness.rows("SELECT batch_id FROM haulier.parts WHERE id = :id", id=part_id)
    assert isinstance(batch_id, UUID)
    return batch_id


def reason(harness: Harness, part_id: UUID, capacity: Capacity = WIDE) -> Reason | None:
    (job_id,) = harness.rows("SELECT job_id FROM haulier.parts WHERE id = :id", id=part_id)
    return why(harness.db, harness.job(job_id), capacity, AT_ONCE)


def code(harness: Harness, part_id: UUID, capacity: Capacity = WIDE) -> str | None:
    found = reason(harness, part_id, capacity)
    return found.code if found else None


def test_what_is_let_in_is_let_in_once(harness: Harness) -> None:
    ids = harness.waiting(1, 1, 1)
    assert sorted(let_in(harness)) == sorted(ids)
    assert let_in(harness) == []
    batch = harness.batch(batch_of(harness, ids[0]))
    assert batch.created_at == batch.dispatched_at is not None


@pytest.mark.parametrize("limit", [-1, 0, 2, 9])
def test_no_more_than_the_limit_are_admitted(harness: Harness, limit: int) -> None:
    harness.waiting(*[1] * 5)
    assert len(let_in(harness, limit)) == max(0, min(limit, 5))


def test_a_slot_is_free_again_when_a_batch_has_ended(harness: Harness) -> None:
    capacity = Capacity(batches=2, tokens=10**12)
    first, second, third = harness.waiting(1, 1, 1)
    assert let_in(harness, capacity=capacity) == [first, second]
    for state in (BatchState.UPLOADED, BatchState.CREATED):
        harness.advance(batch_of(harness, first), state)
        assert let_in(harness, capacity=capacity) == []
    harness.advance(batch_of(harness, first), BatchState.ENDED)
    assert let_in(harness, capacity=capacity) == [third]


def test_each_model_of_an_account_has_its_own_limit(harness: Harness) -> None:
    ids = harness.waiting(1, 1, 1, 1)
    harness.run("UPDATE haulier.parts SET model = 'other' WHERE id = ANY(:ids)", ids=ids[2:])
    assert len(let_in(harness, capacity=Capacity(batches=1, tokens=10**12))) == 2


def test_a_producer_with_ten_requests_is_not_behind_one_with_a_million(harness: Harness) -> None:
    many = harness.waiting(*[50_000] * 20, producer="many")
    (few,) = harness.waiting(10, producer="few")
    assert few in let_in(harness, 2)
    assert set(many) & set(let_in(harness, 2))


def test_higher_priority_goes_first(harness: Harness) -> None:
    harness.waiting(1, 1)
    (urgent,) = harness.waiting(1, priority=5)
    assert let_in(harness, 1) == [urgent]


def test_what_is_paused_held_or_not_due_stays_out(harness: Harness) -> None:
    paused, held, later, due = harness.waiting(1, 1, 1, 1)
    harness.run("UPDATE haulier.parts SET account = 'other' WHERE id = :id", id=paused)
    harness.run(
        "INSERT INTO haulier.accounts (name, paused_until) VALUES ('other', now() + interval '1 d')"
    )
    harness.run("UPDATE haulier.parts SET model = 'full' WHERE id = :id", id=held)
    harness.run(
        "INSERT INTO haulier.lanes (account, endpoint, model, held_until)"
        " SELECT account, endpoint, model, now() + interval '1 d' FROM haulier.parts"
        " WHERE id = :id",
        id=held,
    )
    harness.run(
        "UPDATE haulier.parts SET ready_at = now() + interval '1 d' WHERE id = :id", id=later
    )
    assert let_in(harness) == [due]
    harness.run("UPDATE haulier.accounts SET paused_until = now()")
    harness.run("UPDATE haulier.lanes SET held_until = now()")
    harness.run("UPDATE haulier.parts SET ready_at = now()")
    assert sorted(let_in(harness)) == sorted([paused, held, later])


def test_several_schedulers_let_in_no_more_than_the_limit(harness: Harness) -> None:
    harness.waiting(*[1] * 40)
    capacity = Capacity(batches=10, tokens=10**12)
    start = Barrier(4)

    def tick(_: int) -> int:
        start.wait(10)
        return sum(len(let_in(harness, 3, capacity)) for _ in range(6))

    with ThreadPoolExecutor(4) as threads:
        together = sum(threads.map(tick, range(4)))
    # Whoever comes while another one is at it finds nothing to do: the next tick sees to the rest.
    assert 3 <= together <= 10
    assert together + len(let_in(harness, 20, capacity)) == 10


def test_what_goes_again_waits_for_its_turn_as_well(harness: Harness) -> None:
    batch_id = harness.created(5)
    job_id = harness.part(batch_id).job_id
    harness.settle(batch_id, settlement(2, carried=3))
    (again,) = harness.open_parts(job_id)
    assert let_in(harness) == [again]


def test_what_waits_for_an_operator_holds_no_place(harness: Harness) -> None:
    capacity = Capacity(batches=1, tokens=10**12)
    (parked,) = harness.waiting(1)
    let_in(harness)
    batch_id = batch_of(harness, parked)
    harness.apply(harness.claim(batch_id, Stage.UPLOAD), Park("nobody knows"))
    (other,) = harness.waiting(1)
    assert let_in(harness, capacity=capacity) == [other]


def test_what_cannot_be_uploaded_gives_its_place_back(harness: Harness) -> None:
    capacity = Capacity(batches=1, tokens=10**12)
    (broken,) = harness.waiting(1)
    let_in(harness)
    (other,) = harness.waiting(1)
    batch_id = batch_of(harness, broken)
    harness.apply(harness.claim(batch_id, Stage.UPLOAD), Retry("its blob is gone"))
    assert let_in(harness, capacity=capacity) == [other]
    # It is due again by itself.
    harness.due_now(batch_id)
    sent = dispatch(harness.db, Batch, frozenset({Stage.UPLOAD}), limit=9, again=timedelta(0))
    assert batch_id in {due.id for due in sent}


def test_a_cancel_that_came_while_a_batch_was_tried_is_seen_at_once(harness: Harness) -> None:
    batch_id = harness.queued(1)
    claim = harness.claim(batch_id, Stage.UPLOAD)
    cancel(harness.db, harness.part(batch_id).job_id)
    harness.apply(claim, Retry("503"))
    assert harness.claim(batch_id, Stage.UPLOAD).cancel_requested


def test_what_is_cancelled_waits_for_nothing(harness: Harness) -> None:
    job_id = harness.submitted(1, 1)
    cancel(harness.db, job_id)
    ids = harness.open_batches(job_id)
    assert len(ids) == 2
    claims = claim_batches(harness.db, ids, Stage.UPLOAD, LEASE)
    assert [claim.ending for claim in claims] == [Ending.CANCELLED] * 2


def test_the_estimate_of_tokens_follows_what_usage_shows(harness: Harness) -> None:
    (first,) = harness.waiting(10)
    let_in(harness)
    batch_id = batch_of(harness, first)
    size = 1000 + 10 * RENAMED
    assert harness.batch(batch_id).tokens == size / 4  # a quarter of a token for each byte
    harness.settle(batch_id, settlement(10, usage=Usage(1000, 1000, 2000)))
    (second,) = harness.waiting(10)
    let_in(harness)
    assert harness.batch(batch_of(harness, second)).tokens == size * 2


# --- why a job waits ----------------------------------------------------------------------------


def test_a_job_that_is_under_way_waits_for_nothing(harness: Harness) -> None:
    first, _ = harness.waiting(1, 1)
    let_in(harness, 1)
    assert reason(harness, first) is None


def test_a_job_says_that_its_account_is_full(harness: Harness) -> None:
    harness.waiting(1)
    let_in(harness)
    (batch_id,) = harness.waiting(1)
    full = reason(harness, batch_id, Capacity(batches=1, tokens=10**12))
    assert full is not None
    assert full.code == "inflight_batches"
    assert full.detail.startswith("account default has 1 batches of meta-llama")
    assert code(harness, batch_id, Capacity(batches=9, tokens=34)) == "enqueued_tokens"
    assert code(harness, batch_id) == "turn"


def test_a_job_says_that_its_account_is_paused_and_until_when(harness: Harness) -> None:
    batch_id = harness.queued(1)
    harness.apply(harness.claim(batch_id, Stage.UPLOAD), Pause("401 bad key", blocked=True))
    paused = reason(harness, harness.part(batch_id).id)
    account = harness.account()
    assert paused is not None
    assert account is not None
    assert (paused.code, paused.until) == ("account_paused", account.paused_until)
    assert "401 bad key" in paused.detail


def test_a_job_says_that_it_waits_for_a_worker_or_a_pause_or_an_operator(harness: Harness) -> None:
    job_id = harness.unread()
    accepted = why(harness.db, harness.job(job_id), WIDE, AT_ONCE)
    assert accepted is not None
    assert accepted.code == "worker"
    batch_id = harness.created(5)
    job_id = harness.part(batch_id).job_id
    harness.settle(batch_id, settlement(2, carried=3))
    (again,) = harness.open_parts(job_id)
    harness.run("UPDATE haulier.parts SET ready_at = now() + interval '1 min'")
    assert code(harness, again) == "retry"
    harness.let_in()
    harness.run("UPDATE haulier.batches SET parked_at = now(), not_before = now()")
    assert code(harness, again) == "parked"


def test_a_finished_job_waits_for_nothing(harness: Harness) -> None:
    first, second = harness.split(1, 1)
    part_id = harness.part(first).id
    for batch_id in (first, second):
        harness.settle(batch_id, settlement(1, final_lines=mingled()))
    assert code(harness, part_id) == "worker"  # its results are to be put together
    harness.run("UPDATE haulier.jobs SET state = 'completed', finished_at = now()")
    assert reason(harness, part_id) is None


# --- packing ------------------------------------------------------------------------------------

TOGETHER = Limits(requests=100, bytes=10**9, wait=timedelta(hours=1))


def test_small_jobs_share_a_batch_and_an_idle_group_sends_at_once(harness: Harness) -> None:
    jobs = [harness.submitted(5) for _ in range(7)]
    (batch_id,) = batches(harness, limits=TOGETHER)
    batch = harness.batch(batch_id)
    assert (batch.parts, batch.requests, batch.renamed) == (7, 35, True)
    assert {part.job_id for part in harness.parts(batch_id)} == set(jobs)


def test_a_busy_group_waits_until_its_batch_is_full_or_old(harness: Harness) -> None:
    harness.submitted(5)
    assert len(batches(harness, limits=TOGETHER)) == 1
    for _ in range(8):
        harness.submitted(10)
    assert batches(harness, limits=TOGETHER) == []
    harness.submitted(30)  # more than fits in
    assert len(batches(harness, limits=TOGETHER)) == 1
    harness.submitted(5)
    assert batches(harness, limits=TOGETHER) == []
    late, *_ = harness.rows("SELECT id FROM haulier.parts WHERE state = 'waiting'")
    found = reason(harness, late)
    assert found is not None
    assert (found.code, found.until) == ("turn", None)
    harness.run("UPDATE haulier.parts SET ready_at = ready_at - interval '1 h'")
    assert len(batches(harness, limits=TOGETHER)) == 1


def test_what_fills_a_batch_is_seen_however_little_room_there_is(harness: Harness) -> None:
    harness.submitted(5)
    batches(harness, limits=TOGETHER)
    for _ in range(45):
        harness.submitted(5)
    first = batches(harness, limit=1, limits=TOGETHER)
    second = batches(harness, limit=1, limits=TOGETHER)
    assert [harness.batch(i).requests for i in (*first, *second)] == [100, 100]
    assert batches(harness, limit=1, limits=TOGETHER) == []


def test_producers_priorities_lanes_and_large_parts_do_not_mix(harness: Harness) -> None:
    wide = Limits(requests=10_000, bytes=10**9, wait=timedelta(0))
    harness.submitted(5)
    harness.submitted(5, producer="other")
    harness.submitted(5, priority=3)
    harness.submitted(LARGE + 1)
    harness.submitted(5)
    elsewhere = harness.submitted(5)
    harness.run("UPDATE haulier.parts SET model = 'other' WHERE job_id = :id", id=elsewhere)
    shared = [harness.batch(i).requests for i in batches(harness, limits=wide)]
    assert sorted(shared) == [5, 5, 5, 10, LARGE + 1]


def test_a_cancelled_job_leaves_a_batch_that_was_never_claimed(harness: Harness) -> None:
    batch_id, (first, second) = harness.share(3, 4)
    cancel(harness.db, first)
    batch = harness.batch(batch_id)
    assert (batch.parts, batch.requests, batch.ending) == (1, 4, None)
    (ending,) = harness.open_batches(first)
    assert ending != batch_id
    assert harness.batch(ending).ending is Ending.CANCELLED
    cancel(harness.db, second)
    assert harness.batch(batch_id).ending is Ending.CANCELLED


@pytest.mark.parametrize("leased", [True, False])
def test_once_a_batch_was_claimed_its_parts_travel_on(harness: Harness, *, leased: bool) -> None:
    batch_id, (first, second) = harness.share(3, 4)
    claim = harness.claim(batch_id, Stage.UPLOAD)
    if not leased:
        harness.apply(claim, Retry("503"))
    cancel(harness.db, first)
    batch = harness.batch(batch_id)
    assert (batch.parts, batch.cancelled_at, batch.ending) == (2, None, None)
    cancel(harness.db, second)
    if leased:
        harness.apply(claim, Advance(BatchState.UPLOADED, Changes(input_file_id="file")))
    assert harness.batch(batch_id).ending is Ending.CANCELLED
    stage = Stage.CREATE if leased else Stage.UPLOAD
    harness.due_now(batch_id)
    assert harness.claim(batch_id, stage).cancel_requested


def test_two_jobs_cancelled_at_once_cancel_their_batch(harness: Harness) -> None:
    for _ in range(5):
        batch_id, jobs = harness.share(1, 1)
        harness.advance(batch_id, BatchState.CREATED)
        start = Barrier(2)

        def end(job_id: UUID, start: Barrier = start) -> None:
            start.wait(10)
            cancel(harness.db, job_id)

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(end, jobs))
        assert harness.batch(batch_id).cancelled_at is not None


def test_the_jobs_of_a_shared_batch_end_with_it(harness: Harness) -> None:
    batch_id, jobs = harness.share(3, 4, 2)
    harness.advance(batch_id, BatchState.ENDED)
    harness.due_now(batch_id)
    claim = harness.claim(batch_id, Stage.FETCH)
    parts = parts_of(harness.db, claim)
    usage = Usage(1, 2, 3)
    done = [
        settlement(part.requests, part=part.id, job_id=part.job_id, usage=usage) for part in parts
    ]
    used = "SELECT coalesce(sum(1000 * batches + succeeded), 0)::int FROM haulier.usage"
    before = harness.rows(used)[0]
    harness.apply(claim, Settle(BatchState.SETTLED, (done[0],), rest=Wait(timedelta(0))))
    assert harness.job(jobs[0]).state is JobState.COMPLETED
    assert harness.batch(batch_id).state is BatchState.ENDED
    harness.apply(harness.claim(batch_id, Stage.FETCH), Settle(BatchState.SETTLED, tuple(done)))
    assert [harness.job(job_id).state for job_id in jobs] == [JobState.COMPLETED] * 3
    assert [harness.job(job_id).total_tokens for job_id in jobs] == [3, 3, 3]
    batch = harness.batch(batch_id)
    assert (batch.state, batch.succeeded, batch.total_tokens) == (BatchState.SETTLED, 9, 9)
    after = harness.rows(used)[0]
    assert after == before + 1000 + 9


def test_a_part_that_cannot_be_stored_keeps_no_other_from_it(harness: Harness) -> None:
    batch_id, jobs = harness.share(3, 4, 2)
    harness.advance(batch_id, BatchState.ENDED)
    harness.due_now(batch_id)
    claim = harness.claim(batch_id, Stage.FETCH)
    done = [
        settlement(part.requests + (part.job_id == jobs[1]), part=part.id, job_id=part.job_id)
        for part in parts_of(harness.db, claim)
    ]
    with pytest.raises(IntegrityError):
        harness.apply(claim, Settle(BatchState.SETTLED, tuple(done)))
    states = [harness.job(job_id).state for job_id in jobs]
    assert states == [JobState.COMPLETED, JobState.RUNNING, JobState.COMPLETED]
    assert harness.batch(batch_id).state is BatchState.ENDED


def test_what_goes_again_waits_for_others_of_its_job(harness: Harness) -> None:
    first, second = harness.split(3, 3)
    job_id = harness.part(first).job_id
    hour = timedelta(hours=1)
    for batch_id in (first, second):
        harness.advance(batch_id, BatchState.ENDED)
        harness.due_now(batch_id)

    def settle(batch_id: UUID) -> None:
        part = harness.part(batch_id)
        done = settlement(2, carried=1, part=part.id, job_id=job_id)
        claim = harness.claim(batch_id, Stage.FETCH)
        settled = Settle(BatchState.SETTLED, (done,))
        apply(harness.db, claim, settled, retry_base=hour, probe=hour, company=hour)

    settle(first)
    assert batches(harness, limits=AT_ONCE) == []
    settle(second)
    (batch_id,) = batches(harness, limits=AT_ONCE)
    batch = harness.batch(batch_id)
    # Of one job, so the requests keep their custom_ids.
    assert (batch.parts, batch.renamed) == (2, False)


def test_what_travels_together_goes_whole_where_nothing_else_could_probe_its_lane(
    harness: Harness,
) -> None:
    harness.waiting(500)
    ill_lane(harness.db, MODEL, state=LaneState.PROBING, phase=Phase.TENTH, until=None)
    harness.run("UPDATE haulier.parts SET company = gen_random_uuid()")
    (batch_id,) = batches(harness)
    assert harness.batch(batch_id).requests == 500
