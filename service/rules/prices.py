"""Estimates of cost, from the operator's price table. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from config.settings import Price, PriceTable

ANY_MODEL = "*"
MILLIONTH = -6
"""Prices are for a million tokens."""


@dataclass(frozen=True)
class Tokens:
    """The tokens that a model used on a day (UTC)."""

    model: str
    day: date
    prompt: int
    completion: int


@dataclass(frozen=True)
class Estimate:
    """A sum in USD; `usd` is None where the price of something in it is not known."""

    usd: Decimal | None
    unknown_models: tuple[str, ...] = ()


def price(prices: PriceTable, used: Tokens) -> Decimal | None:
    """USD for these tokens in a batch; None for unknown models, and days before the first entry.

    What the table says of `*` holds for every model that it does not name.
    """
    entries = prices.get(used.model, prices.get(ANY_MODEL, ()))
    valid = [entry for entry in entries if entry.since <= used.day]
    return _of(valid[-1], used) if valid else None


def estimate(prices: PriceTable, parts: Iterable[Tokens]) -> Estimate:
    """The price of them all together, or which models stand in the way of one."""
    usd, unknown = Decimal(0), set()
    for used in parts:
        found = price(prices, used)
        if found is None:
            unknown.add(used.model)
        else:
            usd += found
    return Estimate(None if unknown else usd, tuple(sorted(unknown)))


def written(usd: Decimal | None) -> str | None:
    """Return the sum as JSON has it: a decimal string, because a float would be inexact."""
    return None if usd is None else format(usd.normalize(), "f")


def _of(entry: Price, used: Tokens) -> Decimal:
    full = used.prompt * entry.input + used.completion * entry.output
    return (full * (1 - entry.batch_discount)).scaleb(MILLIONTH)
