"""Admitting batches, on real rows: capacity of a lane, fairness, and why a job waits."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from uuid import UUID

import pytest

from service.rules.admission import Capacity
from service.rules.states import BatchState, Stage
from service.rules.work import Advance, Park, Pause, Retry, Usage, Wait
from service.store import engine
from service.store.cancel import cancel
from service.store.waiting import Reason, why
from tests.factories import (
    Harness,
    admit,
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


def let_in(harness: Harness, limit: int = 100, capacity: Capacity = WIDE) -> list[UUID]:
    return [due.id for due in admit(harness.db, limit=limit, capacity=capacity)]


def reason(harness: Harness, batch_id: UUID, capacity: Capacity = WIDE) -> Reason | None:
    return why(harness.db, harness.job_of(batch_id), capacity)


def code(harness: Harness, batch_id: UUID, capacity: Capacity = WIDE) -> str | None:
    found = reason(harness, batch_id, capacity)
    return found.code if found else None


def test_what_is_let_in_is_let_in_once(harness: Harness) -> None:
    ids = harness.waiting(1, 1, 1)
    assert sorted(let_in(harness)) == sorted(ids)
    assert let_in(harness) == []
    batch = harness.batch(ids[0])
    assert batch.admitted_at == batch.dispatched_at is not None


@pytest.mark.parametrize("limit", [-1, 0, 2, 9])
def test_no_more_than_the_limit_are_admitted(harness: Harness, limit: int) -> None:
    harness.waiting(*[1] * 5)
    assert len(let_in(harness, limit)) == max(0, min(limit, 5))


def test_a_slot_is_free_again_when_a_batch_has_ended(harness: Harness) -> None:
    capacity = Capacity(batches=2, tokens=10**12)
    first, second, third = harness.waiting(1, 1, 1)
    assert let_in(harness, capacity=capacity) == [first, second]
    for state in (BatchState.UPLOADED, BatchState.CREATED):
        harness.advance(first, state)
        assert let_in(harness, capacity=capacity) == []
    harness.advance(first, BatchState.ENDED)
    assert let_in(harness, capacity=capacity) == [third]


def test_each_model_of_an_account_has_its_own_limit(harness: Harness) -> None:
    ids = harness.waiting(1, 1, 1, 1)
    harness.run("UPDATE haulier.batches SET model = 'other' WHERE id = ANY(:ids)", ids=ids[2:])
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


def test_what_is_paused_parked_leased_or_not_due_stays_out(harness: Harness) -> None:
    parked, later, leased, other, due = harness.waiting(1, 1, 1, 1, 1)
    harness.run("UPDATE haulier.batches SET parked_at = now() WHERE id = :id", id=parked)
    harness.apply(harness.claim(later, Stage.UPLOAD), Wait(timedelta(minutes=1)))
    harness.claim(leased, Stage.UPLOAD)
    harness.run("UPDATE haulier.batches SET account = 'other' WHERE id = :id", id=other)
    harness.apply(harness.claim(other, Stage.UPLOAD), Pause("401", blocked=True))
    harness.due_now(other)
    assert let_in(harness) == [due]
    harness.expire_lease(leased)
    assert let_in(harness) == [leased]


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


def test_a_retry_batch_waits_for_its_turn_as_well(harness: Harness) -> None:
    batch_id = harness.created(5)
    harness.settle(batch_id, settlement(2, carried=3))
    (again,) = harness.open_batches(harness.batch(batch_id).job_id)
    assert harness.batch(again).admitted_at is None
    assert let_in(harness) == [again]


def test_a_batch_that_is_sent_back_keeps_its_place(harness: Harness) -> None:
    batch_id = harness.uploaded()
    admitted_at = harness.batch(batch_id).admitted_at
    harness.apply(harness.claim(batch_id, Stage.CREATE), Advance(BatchState.QUEUED))
    assert harness.batch(batch_id).admitted_at == admitted_at


def test_what_waits_for_an_operator_holds_no_place(harness: Harness) -> None:
    capacity = Capacity(batches=1, tokens=10**12)
    (parked,) = harness.waiting(1)
    let_in(harness)
    harness.apply(harness.claim(parked, Stage.UPLOAD), Park("nobody knows"))
    (other,) = harness.waiting(1)
    assert let_in(harness, capacity=capacity) == [other]


def test_what_cannot_be_uploaded_gives_its_place_back(harness: Harness) -> None:
    capacity = Capacity(batches=1, tokens=10**12)
    (broken,) = harness.waiting(1)
    let_in(harness)
    (other,) = harness.waiting(1)
    harness.apply(harness.claim(broken, Stage.UPLOAD), Retry("its blob is gone"))
    assert let_in(harness, capacity=capacity) == [other]
    harness.due_now(broken)
    assert let_in(harness) == [broken]


def test_a_cancel_that_came_while_a_batch_was_tried_is_seen_at_once(harness: Harness) -> None:
    (batch_id,) = harness.waiting(1)
    let_in(harness)
    claim = harness.claim(batch_id, Stage.UPLOAD)
    cancel(harness.db, claim.job_id)
    harness.apply(claim, Retry("503"))
    assert harness.batch(batch_id).admitted_at is not None
    assert harness.claim(batch_id, Stage.UPLOAD).cancel_requested


def test_what_is_cancelled_waits_for_nothing(harness: Harness) -> None:
    ids = harness.waiting(1, 1)
    cancel(harness.db, harness.batch(ids[0]).job_id)
    assert all(harness.batch(batch_id).admitted_at for batch_id in ids)


def test_the_estimate_of_tokens_follows_what_usage_shows(harness: Harness) -> None:
    (first,) = harness.waiting(10)
    let_in(harness)
    assert harness.batch(first).tokens == 250  # 1,000 bytes at a quarter of a token
    harness.settle(first, settlement(10, usage=Usage(1000, 1000, 2000)))
    (second,) = harness.waiting(10)
    let_in(harness)
    assert harness.batch(second).tokens == 2000


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
    assert code(harness, batch_id, Capacity(batches=9, tokens=30)) == "enqueued_tokens"
    assert code(harness, batch_id) == "turn"


def test_a_job_says_that_its_account_is_paused_and_until_when(harness: Harness) -> None:
    (batch_id,) = harness.waiting(1)
    harness.apply(harness.claim(batch_id, Stage.UPLOAD), Pause("401 bad key", blocked=True))
    paused = reason(harness, batch_id)
    account = harness.account()
    assert paused is not None
    assert account is not None
    assert (paused.code, paused.until) == ("account_paused", account.paused_until)
    assert "401 bad key" in paused.detail


def test_a_job_says_that_it_waits_for_a_worker_or_a_pause_or_an_operator(harness: Harness) -> None:
    job_id = harness.submitted()
    accepted = why(harness.db, harness.job(job_id), WIDE)
    assert accepted is not None
    assert accepted.code == "worker"
    batch_id = harness.created(5)
    harness.settle(batch_id, settlement(2, carried=3))
    (again,) = harness.open_batches(harness.batch(batch_id).job_id)
    harness.run("UPDATE haulier.batches SET not_before = now() + interval '1 min'")
    assert code(harness, again) == "retry"
    harness.run("UPDATE haulier.batches SET parked_at = now(), not_before = now()")
    assert code(harness, again) == "parked"


def test_a_finished_job_waits_for_nothing(harness: Harness) -> None:
    batch_id = harness.created(1)
    harness.settle(batch_id, settlement(1))
    assert code(harness, batch_id) == "worker"  # its results are to be put together
    harness.run("UPDATE haulier.jobs SET state = 'completed', finished_at = now()")
    assert reason(harness, batch_id) is None
