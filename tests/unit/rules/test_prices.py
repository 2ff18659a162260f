"""What tokens cost: by day, exactly, and never guessed."""

from datetime import date
from decimal import Decimal

import pytest

from config.settings import PriceTable, Settings, read_settings
from service.rules.prices import Estimate, Tokens, estimate, price, written

DEAR = "dear/model"


@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch) -> PriceTable:
    monkeypatch.setenv(
        "HAULIER_PRICES",
        '{"dear/model": ['
        '{"from": "2026-07-01", "input": 0.1, "output": 0.30, "batch_discount": 0.25},'
        '{"from": "2026-01-01", "input": "0.88", "output": 1}]}',
    )
    return read_settings().prices


def test_a_star_is_the_price_of_every_model_that_is_not_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HAULIER_PRICES", '{"*": [{"from": "2026-01-01", "input": 4, "output": 0}]}')
    table = read_settings().prices
    assert price(table, Tokens("any", date(2026, 1, 1), 1_000_000, 0)) == Decimal(2)
    assert price({**table, DEAR: ()}, Tokens(DEAR, date(2026, 1, 1), 1, 0)) is None


@pytest.mark.parametrize(
    ("day", "usd"),
    [
        (date(2025, 12, 31), None),
        (date(2026, 1, 1), Decimal("0.94")),
        (date(2026, 6, 30), Decimal("0.94")),
        (date(2026, 7, 1), Decimal("0.3")),
        (date(2030, 1, 1), Decimal("0.3")),
    ],
)
def test_a_day_has_the_price_that_held_then(
    prices: PriceTable, day: date, usd: Decimal | None
) -> None:
    assert price(prices, Tokens(DEAR, day, 1_000_000, 1_000_000)) == usd


def test_a_model_that_nobody_has_priced_has_no_price(prices: PriceTable) -> None:
    assert price(prices, Tokens("other", date(2026, 1, 1), 1, 1)) is None


def test_numbers_are_those_that_were_written_and_not_floats(prices: PriceTable) -> None:
    one_token = price(prices, Tokens(DEAR, date(2026, 8, 1), 1, 0))
    assert written(one_token) == "0.000000075"


def test_one_unknown_model_makes_the_sum_unknown(prices: PriceTable) -> None:
    day = date(2026, 1, 1)
    known = Tokens(DEAR, day, 1_000_000, 0)
    assert estimate(prices, [known, known]) == Estimate(Decimal("0.88"))
    assert estimate(prices, [known, Tokens("b", day, 0, 0), Tokens("a", day, 0, 0)]) == Estimate(
        None, ("a", "b")
    )
    assert estimate(prices, []) == Estimate(Decimal(0))


@pytest.mark.parametrize(
    ("usd", "text"),
    [(None, None), ("0", "0"), ("1.50", "1.5"), ("100", "100"), ("1E-9", "0.000000001")],
)
def test_money_is_written_plainly(usd: str | None, text: str | None) -> None:
    assert written(None if usd is None else Decimal(usd)) == text


def test_no_prices_are_built_in() -> None:
    assert Settings.model_fields["prices"].default == {}
