"""Letting in only what may be spent, on real rows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from config.settings import Price, PriceTable
from service.rules.admission import Capacity
from service.rules.errors import Conflict
from service.rules.lanes import Phase
from service.rules.outcomes import Usage
from service.rules.packing import Limits
from service.rules.states import LaneState
from service.store import engine
from service.store.admit import Admission
from service.store.hold import release
from service.store.producers import add_producer, producer
from service.store.waiting import Reason, why
from tests.factories import MODEL, Harness, ill_lane, settlement
from tests.servers import Databases

WIDE = Capacity(batches=None, tokens=10**12)
ALONE = Limits(requests=1, bytes=10**9, wait=timedelta(0))
# A request of 100 bytes is 25 tokens in: at this price, a thousandth of a USD.
PRICES: PriceTable = {
    MODEL: (
        Price.model_validate(
            {"from": "2020-01-01", "input": 40, "output": 400, "batch_discount": 0}
        ),
    )
}


@pytest.fixture
def harness(databases: Databases) -> Iterator[Harness]:
    url = databases.create()
    connections = engine.create(url, pool_size=4)
    yield Harness(engine.database(connections))
    connections.dispose()
    databases.drop(url)


def let_in(harness: Harness) -> list[UUID]:
    found = Admission().admit(harness.db, limit=100, capacity=WIDE, limits=ALONE, prices=PRICES)
    return [due.id for due in found]


def settle(harness: Harness, batch_id: UUID, requests: int, *, usd: str) -> None:
    """Settle a batch that cost so much."""
    tokens = int(Decimal(usd) * 1_000_000 / 40)
    harness.settle(batch_id, settlement(requests, usage=Usage(tokens, 0, tokens)))


def reason(harness: Harness, job_id: UUID) -> Reason | None:
    return why(harness.db, harness.job(job_id), WIDE, ALONE)


def hurry(harness: Harness) -> None:
    """As if the pauses were over."""
    harness.run("UPDATE haulier.parts SET ready_at = now() WHERE state = 'waiting'")
    harness.run("UPDATE haulier.producers SET short_until = now()")


def test_no_attempt_starts_that_would_pass_the_max_cost_of_its_job(harness: Harness) -> None:
    job_id = harness.submitted(10, 10, 10, 10, max_cost="0.025")
    other = harness.submitted(10, 10, 10)

    first = let_in(harness)

    mine = [batch for batch in first if harness.part(batch).job_id == job_id]
    assert (len(first), len(mine)) == (5, 2)
    assert {harness.part(batch).job_id for batch in first} == {job_id, other}
    assert let_in(harness) == []
    hurry(harness)
    assert let_in(harness) == []
    assert reason(harness, job_id) is None  # some of it is under way

    # They cost a tenth of what they were thought to: there is room for all.
    for batch_id in mine[:1]:
        settle(harness, batch_id, 10, usd="0.001")
    hurry(harness)
    assert len(let_in(harness)) == 2
    assert harness.job(job_id).short_reason is None


def test_a_job_that_has_spent_its_max_cost_waits_for_a_higher_one(harness: Harness) -> None:
    job_id = harness.submitted(10, 10, max_cost="0.015")
    (batch_id,) = let_in(harness)
    settle(harness, batch_id, 10, usd="0.014")
    hurry(harness)
    assert let_in(harness) == []

    waits = reason(harness, job_id)
    assert waits is not None
    assert waits.code == "max_cost"
    for words in ("0.014 USD are spent", "about 0.014 USD, which would pass 0.015 USD"):
        assert words in waits.detail
    with pytest.raises(Conflict, match="higher one"):
        release(harness.db, job_id)
    release(harness.db, job_id, max_cost=Decimal("0.03"))
    assert len(let_in(harness)) == 1
    assert reason(harness, job_id) is None


@pytest.mark.parametrize("span", ["day", "month"])
def test_what_would_pass_a_budget_of_its_producer_waits(harness: Harness, span: str) -> None:
    add_producer(harness.db, "billing", **{f"usd_per_{span}": Decimal("0.035")})
    jobs = [harness.submitted(10, 10, producer="billing") for _ in range(2)]
    other = harness.submitted(10)

    first = let_in(harness)

    assert [harness.batch(batch).producer for batch in first].count("billing") == 3
    assert other in {harness.part(batch).job_id for batch in first}
    assert let_in(harness) == []
    settled = [batch for batch in first if harness.batch(batch).producer == "billing"]
    for batch_id in settled:
        settle(harness, batch_id, 10, usd="0.012")
    hurry(harness)
    assert let_in(harness) == []

    waiting = next(job for job in jobs if harness.job(job).pending)
    waits = reason(harness, waiting)
    assert waits is not None
    assert (waits.code, waits.until is not None) == ("budget", True)
    assert f"budget for the {span}: 0.036 USD are spent" in waits.detail
    row = producer(harness.db, "billing")
    assert row is not None
    assert row.short_until == waits.until  # the end of the span: nothing can make room before

    # The next span.
    harness.run("UPDATE haulier.usage SET day = day - 40")
    hurry(harness)
    assert len(let_in(harness)) == 1
    assert reason(harness, waiting) is None


def test_parts_that_share_a_batch_with_one_that_costs_too_much_go_without_it(
    harness: Harness,
) -> None:
    rich, poor = harness.submitted(10), harness.submitted(10, max_cost="0.005")
    together = Limits(requests=1000, bytes=10**9, wait=timedelta(0))
    found = Admission().admit(harness.db, limit=100, capacity=WIDE, limits=together, prices=PRICES)
    (part,) = harness.parts(found[0].id)
    assert (len(found), part.job_id) == (1, rich)
    assert harness.batch(found[0].id).requests == 10
    waits = reason(harness, poor)
    assert waits is not None
    assert waits.code == "max_cost"


@pytest.mark.parametrize("phase", ["resting", "probing", "tenth"])
def test_what_probes_an_ill_lane_is_held_to_the_same_bounds(harness: Harness, phase: str) -> None:
    add_producer(harness.db, "billing", usd_per_day=Decimal("0.005"))
    # The highest priorities, so that they are asked first.
    short = harness.submitted(10, producer="billing", priority=9)
    dear = [harness.submitted(10, max_cost="0.005", priority=9 - n) for n in range(3)]
    fit = harness.submitted(10)
    state = LaneState.RESTING if phase == "resting" else LaneState.PROBING
    probing: dict[str, dict[str, Any]] = {
        "resting": {"ill_since": datetime(2020, 1, 1, tzinfo=UTC)},
        "probing": {"phase": Phase.PROBE},
        "tenth": {"phase": Phase.TENTH},
    }
    ill_lane(harness.db, MODEL, state=state, **probing[phase])

    found = [harness.part(batch).job_id for batch in let_in(harness)]

    assert found == [fit]
    assert None not in [harness.job(job_id).short_reason for job_id in dear]
    assert harness.job(short).short_reason is None
    row = producer(harness.db, "billing")
    assert row is not None
    assert row.short_until is not None
    assert let_in(harness) == []


def test_a_model_without_a_price_costs_nothing(harness: Harness) -> None:
    harness.submitted(10, max_cost="0.000001")
    found: list[Any] = Admission().admit(
        harness.db, limit=100, capacity=WIDE, limits=ALONE, prices={}
    )
    assert len(found) == 1
