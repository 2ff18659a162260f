"""Letting batches in, on real rows: limits per account and model, fairness, and why a job waits."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from uuid import UUID

import pytest

from service.admission import Limits
from service.states import BatchState, Stage
from service.store import engine
from service.store.admit import admit
from service.store.cancel import cancel
from service.store.waiting import Reason, why
from service.work import Advance, Park, Pause, Retry, Usage, Wait
from tests.factories import House, settlement
from tests.servers import Databases

WIDE = Limits(batches=None, tokens=10**12)


@pytest.fixture(scope="module")
def _house(databases: Databases) -> Iterator[House]:
    url = databases.create()
    connections = engine.create(url, pool_size=4)
    yield House(engine.database(connections))
    connections.dispose()
    databases.drop(url)


@pytest.fixture
def house(_house: House) -> House:
    """An empty house: one database for all of these tests, swept before each."""
    _house.sweep()
    return _house


def let_in(house: House, room: int = 100, limits: Limits = WIDE) -> list[UUID]:
    return [due.id for due in admit(house.db, room=room, limits=limits)]


def reason(house: House, batch_id: UUID, limits: Limits = WIDE) -> Reason | None:
    return why(house.db, house.job_of(batch_id), limits)


def code(house: House, batch_id: UUID, limits: Limits = WIDE) -> str | None:
    found = reason(house, batch_id, limits)
    return found.code if found else None


def test_what_is_let_in_is_let_in_once(house: House) -> None:
    ids = house.waiting(1, 1, 1)
    assert sorted(let_in(house)) == sorted(ids)
    assert let_in(house) == []
    batch = house.batch(ids[0])
    assert batch.admitted_at == batch.dispatched_at is not None


@pytest.mark.parametrize("room", [-1, 0, 2, 9])
def test_no_more_than_there_is_room_for(house: House, room: int) -> None:
    house.waiting(*[1] * 5)
    assert len(let_in(house, room)) == max(0, min(room, 5))


def test_a_slot_is_free_again_when_a_batch_has_ended(house: House) -> None:
    limits = Limits(batches=2, tokens=10**12)
    first, second, third = house.waiting(1, 1, 1)
    assert let_in(house, limits=limits) == [first, second]
    for state in (BatchState.UPLOADED, BatchState.CREATED):
        house.advance(first, state)
        assert let_in(house, limits=limits) == []
    house.advance(first, BatchState.ENDED)
    assert let_in(house, limits=limits) == [third]


def test_each_model_of_an_account_has_its_own_limit(house: House) -> None:
    ids = house.waiting(1, 1, 1, 1)
    house.run("UPDATE haulier.batches SET model = 'other' WHERE id = ANY(:ids)", ids=ids[2:])
    assert len(let_in(house, limits=Limits(batches=1, tokens=10**12))) == 2


def test_a_producer_with_ten_requests_is_not_behind_one_with_a_million(house: House) -> None:
    many = house.waiting(*[50_000] * 20, producer="many")
    (few,) = house.waiting(10, producer="few")
    assert few in let_in(house, 2)
    assert set(many) & set(let_in(house, 2))


def test_higher_priority_goes_first(house: House) -> None:
    house.waiting(1, 1)
    (urgent,) = house.waiting(1, priority=5)
    assert let_in(house, 1) == [urgent]


def test_what_is_paused_parked_leased_or_not_due_stays_out(house: House) -> None:
    parked, later, leased, other, due = house.waiting(1, 1, 1, 1, 1)
    house.run("UPDATE haulier.batches SET parked_at = now() WHERE id = :id", id=parked)
    house.apply(house.claim(later, Stage.UPLOAD), Wait(timedelta(minutes=1)))
    house.claim(leased, Stage.UPLOAD)
    house.run("UPDATE haulier.batches SET account = 'other' WHERE id = :id", id=other)
    house.apply(house.claim(other, Stage.UPLOAD), Pause("401", blocked=True))
    house.due_now(other)
    assert let_in(house) == [due]
    house.expire_lease(leased)
    assert let_in(house) == [leased]


def test_several_schedulers_let_in_no_more_than_the_limit(house: House) -> None:
    house.waiting(*[1] * 40)
    limits = Limits(batches=10, tokens=10**12)
    start = Barrier(4)

    def tick(_: int) -> int:
        start.wait(10)
        return sum(len(let_in(house, 3, limits)) for _ in range(6))

    with ThreadPoolExecutor(4) as threads:
        together = sum(threads.map(tick, range(4)))
    # Whoever comes while another one is at it finds nothing to do: the next tick sees to the rest.
    assert 3 <= together <= 10
    assert together + len(let_in(house, 20, limits)) == 10


def test_a_retry_batch_waits_for_its_turn_as_well(house: House) -> None:
    batch_id = house.created(5)
    house.settle(batch_id, settlement(2, carried=3))
    (again,) = house.open_batches(house.batch(batch_id).job_id)
    assert house.batch(again).admitted_at is None
    assert let_in(house) == [again]


def test_a_batch_that_is_sent_back_keeps_its_place(house: House) -> None:
    batch_id = house.uploaded()
    admitted_at = house.batch(batch_id).admitted_at
    house.apply(house.claim(batch_id, Stage.CREATE), Advance(BatchState.QUEUED))
    assert house.batch(batch_id).admitted_at == admitted_at


def test_what_waits_for_an_operator_holds_no_place(house: House) -> None:
    limits = Limits(batches=1, tokens=10**12)
    (parked,) = house.waiting(1)
    let_in(house)
    house.apply(house.claim(parked, Stage.UPLOAD), Park("nobody knows"))
    (other,) = house.waiting(1)
    assert let_in(house, limits=limits) == [other]


def test_what_cannot_be_uploaded_gives_its_place_back(house: House) -> None:
    limits = Limits(batches=1, tokens=10**12)
    (broken,) = house.waiting(1)
    let_in(house)
    (other,) = house.waiting(1)
    house.apply(house.claim(broken, Stage.UPLOAD), Retry("its blob is gone"))
    assert let_in(house, limits=limits) == [other]
    house.due_now(broken)
    assert let_in(house) == [broken]


def test_a_cancel_that_came_while_a_batch_was_tried_is_seen_at_once(house: House) -> None:
    (batch_id,) = house.waiting(1)
    let_in(house)
    claim = house.claim(batch_id, Stage.UPLOAD)
    cancel(house.db, claim.job_id)
    house.apply(claim, Retry("503"))
    assert house.batch(batch_id).admitted_at is not None
    assert house.claim(batch_id, Stage.UPLOAD).cancel_requested


def test_what_is_cancelled_waits_for_nothing(house: House) -> None:
    ids = house.waiting(1, 1)
    cancel(house.db, house.batch(ids[0]).job_id)
    assert all(house.batch(batch_id).admitted_at for batch_id in ids)


def test_the_estimate_of_tokens_follows_what_usage_shows(house: House) -> None:
    (first,) = house.waiting(10)
    let_in(house)
    assert house.batch(first).tokens == 250  # 1,000 bytes at a quarter of a token
    house.settle(first, settlement(10, usage=Usage(1000, 1000, 2000)))
    (second,) = house.waiting(10)
    let_in(house)
    assert house.batch(second).tokens == 2000


# --- why a job waits ----------------------------------------------------------------------------


def test_a_job_that_is_under_way_waits_for_nothing(house: House) -> None:
    first, _ = house.waiting(1, 1)
    let_in(house, 1)
    assert reason(house, first) is None


def test_a_job_says_that_its_account_is_full(house: House) -> None:
    house.waiting(1)
    let_in(house)
    (batch_id,) = house.waiting(1)
    full = reason(house, batch_id, Limits(batches=1, tokens=10**12))
    assert full is not None
    assert full.code == "inflight_batches"
    assert full.detail.startswith("account default has 1 batches of meta-llama")
    assert code(house, batch_id, Limits(batches=9, tokens=30)) == "enqueued_tokens"
    assert code(house, batch_id) == "turn"


def test_a_job_says_that_its_account_is_paused_and_until_when(house: House) -> None:
    (batch_id,) = house.waiting(1)
    house.apply(house.claim(batch_id, Stage.UPLOAD), Pause("401 bad key", blocked=True))
    paused = reason(house, batch_id)
    account = house.account()
    assert paused is not None
    assert account is not None
    assert (paused.code, paused.until) == ("account_paused", account.paused_until)
    assert "401 bad key" in paused.detail


def test_a_job_says_that_it_waits_for_a_worker_or_a_pause_or_an_operator(house: House) -> None:
    job_id = house.submitted()
    accepted = why(house.db, house.job(job_id), WIDE)
    assert accepted is not None
    assert accepted.code == "worker"
    batch_id = house.created(5)
    house.settle(batch_id, settlement(2, carried=3))
    (again,) = house.open_batches(house.batch(batch_id).job_id)
    house.run("UPDATE haulier.batches SET not_before = now() + interval '1 min'")
    assert code(house, again) == "retry"
    house.run("UPDATE haulier.batches SET parked_at = now(), not_before = now()")
    assert code(house, again) == "parked"


def test_a_finished_job_waits_for_nothing(house: House) -> None:
    batch_id = house.created(1)
    house.settle(batch_id, settlement(1))
    assert code(house, batch_id) == "worker"  # its results are to be put together
    house.run("UPDATE haulier.jobs SET state = 'completed', finished_at = now()")
    assert reason(house, batch_id) is None
