"""Whether a page of batches is looked at in one list or one by one."""

import pytest

from service.stages.lookup import AFTER_FAILURE, FEW, LIST_AGE, Costs, prefers_list

NOW = 100_000.0


@pytest.mark.parametrize(
    ("due", "get", "listing", "listed"),
    [
        (10, 0.02, 0.1, True),  # ten gets are 0.2 s
        (10, 0.02, 0.3, False),
        (1000, 0.02, 19.0, True),
        (1000, 0.02, 21.0, False),
        (FEW - 1, 5.0, 0.001, False),  # not worth it
        (FEW, None, None, True),  # finds out what a list costs
        (FEW, 0.02, None, True),
        (FEW, None, 60.0, False),  # four gets cannot take as long
        (1000, None, 60.0, True),
    ],
)
def test_the_cheaper_way_is_taken(
    due: int, get: float | None, listing: float | None, listed: bool
) -> None:
    costs = Costs(get=get, listing=listing, listed_at=NOW - 1)
    assert prefers_list(due, costs, NOW) is listed


def test_what_a_list_costs_is_asked_again_when_it_was_long_ago() -> None:
    costs = Costs(get=0.02, listing=100.0, listed_at=NOW)
    assert not prefers_list(10, costs, NOW + LIST_AGE - 1)
    assert prefers_list(10, costs, NOW + LIST_AGE + 1)


def test_after_a_list_that_failed_single_batches_are_asked_for_a_while() -> None:
    costs = Costs(get=0.02, listing=0.01, listed_at=NOW)
    costs.list_broke(NOW)
    assert not prefers_list(1000, costs, NOW + 1)
    assert prefers_list(1000, costs, NOW + AFTER_FAILURE + 1)


def test_costs_follow_what_is_measured() -> None:
    costs = Costs()
    for _ in range(30):
        costs.got(0.1)
        costs.listed(2.0, NOW)
    for _ in range(30):
        costs.got(0.5)
        costs.listed(1.0, NOW)
    assert costs.get == pytest.approx(0.5, rel=0.05)
    assert costs.listing == pytest.approx(1.0, rel=0.05)


def test_one_new_price_replaces_a_list_price_that_was_old() -> None:
    costs = Costs(listing=100.0, listed_at=NOW)
    costs.listed(1.0, NOW + LIST_AGE + 1)
    assert costs.listing == 1.0
