"""What may be spent: the `max_cost` of a job, and the budgets of a producer. Pure.

What is still to be paid is an estimate. Of a job that has settled requests, one request costs what
they cost on average; before that, its bytes tell, as far as the lane has learned from others.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from config.settings import PriceTable
from service.rules.admission import TOKENS_PER_BYTE
from service.rules.prices import Tokens, price, written

MOST_COST = Decimal(1_000_000)
"""The largest `max_cost` and the largest budget, in USD."""
LOOK_AGAIN = timedelta(seconds=30)
"""How long what would cost too much waits until it is looked at again: what is under way may turn
out to cost less."""


def cost_problems(max_cost: Decimal | None) -> Iterator[str]:
    """Yield what is wrong with the `max_cost` of a spec."""
    if max_cost is None:
        return
    if not max_cost.is_finite() or not 0 < max_cost <= MOST_COST:
        yield f"`max_cost` must be a number of USD above 0, and {MOST_COST:,} at most"
    elif max_cost.normalize().as_tuple().exponent < -6:  # type: ignore[operator]
        yield "`max_cost` may have six decimal places"


@dataclass(frozen=True)
class Load:
    """Requests that are to be paid, or under way: of one model, by their size."""

    model: str
    requests: int
    bytes: int
    tokens_per_byte: float | None = None
    """What their lane has learned; None before its first batch has settled."""


def likely_cost(prices: PriceTable, load: Load, day: date) -> Decimal:
    """Estimate what requests cost, by their bytes. A model without a price costs nothing."""
    prompt = round(load.bytes * TOKENS_PER_BYTE)
    total = prompt if load.tokens_per_byte is None else round(load.bytes * load.tokens_per_byte)
    prompt = min(prompt, total)
    return price(prices, Tokens(load.model, day, prompt, total - prompt)) or Decimal(0)


@dataclass(frozen=True)
class Spent:
    """What was settled: its cost in USD, and the requests that it was for."""

    usd: Decimal = Decimal(0)
    requests: int = 0

    def likely_cost(self, prices: PriceTable, load: Load, day: date) -> Decimal:
        """Estimate what more requests of the same job cost."""
        if self.requests and self.usd:
            return self.usd * load.requests / self.requests
        return likely_cost(prices, load, day)


@dataclass
class Purse:
    """A bound on what may be spent. It fills with what is settled, under way and let in."""

    most: Decimal
    settled: Decimal
    under_way: Decimal

    def take(self, cost: Decimal) -> bool:
        """Take the cost of something that is to be let in. Return whether it fitted."""
        if self.settled + self.under_way + cost > self.most:
            return False
        self.under_way += cost
        return True

    @property
    def is_used_up(self) -> bool:
        """Whether nothing that is under way could make room again."""
        return self.settled >= self.most

    def words(self, cost: Decimal) -> str:
        """Say why something that costs so much does not fit."""
        return (
            f"{usd(self.settled)} are spent and about {usd(self.under_way)} are under way; the"
            f" next requests cost about {usd(cost)}, which would pass {usd(self.most)}"
        )


def usd(amount: Decimal) -> str:
    return f"{written(round(amount, 4))} USD"


def day_after(now: datetime) -> datetime:
    """Return the next midnight (UTC)."""
    today = now.astimezone(UTC).date()
    return datetime.combine(today + timedelta(days=1), time(), UTC)


def month_after(now: datetime) -> datetime:
    """Return the beginning of the next month (UTC)."""
    today = now.astimezone(UTC).date()
    return datetime.combine((today.replace(day=1) + timedelta(days=32)).replace(day=1), time(), UTC)
