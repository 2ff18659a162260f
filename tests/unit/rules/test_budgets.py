"""What may be spent: estimates, purses, and when budgets begin anew."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.settings import Price, PriceTable
from service.rules.budgets import (
    Load,
    Purse,
    Spent,
    cost_problems,
    day_after,
    likely_cost,
    month_after,
)

DAY = date(2026, 11, 22)
PRICES: PriceTable = {"m": (Price.model_validate({"from": "2026-01-01", "input": 2, "output": 8}),)}


@pytest.mark.parametrize(
    ("load", "cost"),
    [
        # 4,000,000 bytes are 1,000,000 tokens in, for 2 USD, at half the price.
        (Load("m", 1000, 4_000_000), "1"),
        (Load("m", 1000, 4_000_000, tokens_per_byte=0.5), "5"),
        (Load("m", 1000, 4_000_000, tokens_per_byte=0.125), "0.5"),
        (Load("unknown", 1000, 4_000_000), "0"),
    ],
)
def test_bytes_tell_what_requests_cost_until_something_has_settled(load: Load, cost: str) -> None:
    assert likely_cost(PRICES, load, DAY) == Decimal(cost)
    assert Spent().likely_cost(PRICES, load, DAY) == Decimal(cost)
    assert Spent(Decimal(3), 600).likely_cost(PRICES, load, DAY) == Decimal(5)


@given(
    st.decimals(0, 100, places=2),
    st.decimals(0, 100, places=2),
    st.decimals("0.01", 100, places=2),
    st.lists(st.decimals(0, 50, places=2), max_size=20),
)
def test_a_purse_is_never_passed(
    settled: Decimal, under_way: Decimal, most: Decimal, costs: list[Decimal]
) -> None:
    purse = Purse(most, settled, under_way)
    taken = [cost for cost in costs if purse.take(cost)]
    assert purse.under_way == under_way + sum(taken)
    assert not taken or settled + purse.under_way <= most
    for cost in costs:
        if settled + purse.under_way + cost <= most:
            assert cost in taken or purse.take(cost)


@pytest.mark.parametrize(
    ("amount", "is_good"),
    [
        *(("0.000001", True), ("5", True), ("1000000", True), ("0", False), ("-1", False)),
        *(("1000000.01", False), ("0.0000001", False), ("NaN", False), ("Infinity", False)),
    ],
)
def test_a_bound_is_an_amount_of_money(amount: str, is_good: bool) -> None:
    assert (not list(cost_problems(Decimal(amount)))) is is_good


@pytest.mark.parametrize(
    ("now", "day", "month"),
    [
        (datetime(2026, 11, 22, 12, tzinfo=UTC), (2026, 11, 23), (2026, 12, 1)),
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), (2027, 1, 1), (2027, 1, 1)),
        (datetime(2028, 1, 31, tzinfo=UTC), (2028, 2, 1), (2028, 2, 1)),
    ],
)
def test_budgets_begin_anew(
    now: datetime, day: tuple[int, int, int], month: tuple[int, int, int]
) -> None:
    assert day_after(now) == datetime(*day, tzinfo=UTC)
    assert month_after(now) == datetime(*month, tzinfo=UTC)
