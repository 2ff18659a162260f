"""When a job will be done: instants by which it ends with 50 % and with 90 %. Pure.

The jobs of a lane that have ended are the history. Those that were like the one asked about, in
size, in what waited before them and in the hour, count for more, and so do recent ones. Of these,
those that took longer than the job has lasted already say when it ends: the weighted quantiles of
how long they took. So a forecast can neither lie in the past nor put 90 % before 50 %.

How many jobs in fact end in time is counted, and the level of the upper quantile is corrected by
it (adaptive conformal inference): a job that ends late raises the level, each that ends in time
lowers it a little, so that in the long run nine of ten end in time, however the lane drifts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate

MEDIAN, UPPER = 0.5, 0.9

HISTORY = 400
"""How many of the newest jobs of a lane are looked at."""
LEAST = 10
"""So many jobs must have ended before anything is said."""
LEAST_LONGER = 4.0
"""Jobs, by weight, that must have taken longer than this one has lasted."""
LIKE = math.log(4)
"""Jobs of a fourth of the size, or with a fourth of what waited before them, count e times less."""
HOURS = 4.0
"""Jobs of another hour of the day: e times less for each of these."""
AGES = 150.0
"""Jobs that ended before so many others: e times less."""

STEP = 0.02
"""By how much the level follows what is counted."""
HIGHEST = 0.995


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Instants by which a job ends with 50 % and with 90 %, and how many jobs that rests on."""

    p50: datetime
    p90: datetime
    basis: int


@dataclass(frozen=True)
class NoForecast:
    """Why nothing can be said. `code` is stable, `reason` is for people."""

    code: str
    reason: str


NOT_YET = NoForecast("not_yet", "it is looked at for the first time within a few seconds")
TOO_LITTLE = NoForecast(
    "history", f"fewer than {LEAST} jobs have ended in its lane, or too few that were like it"
)
OVERDUE = NoForecast("overdue", "it takes longer than nearly all jobs like it did")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is known of a job in a lane when it comes."""

    requests: int
    ahead: int
    """Requests that went, or were to go, before it."""
    since: datetime


@dataclass(frozen=True, kw_only=True)
class Past(Kind):
    """A job that has ended, and after how many seconds."""

    took: float


def forecast(
    history: Sequence[Past], kind: Kind, now: datetime, level: float = UPPER
) -> Forecast | NoForecast:
    """Say when a job ends, by the jobs of its lane that ended, the newest first.

    `level` is the quantile that stands for 90 %, as `corrected` has left it.
    """
    if len(history) < LEAST:
        return TOO_LITTLE
    lasted = max((now - kind.since).total_seconds(), 0.0)
    weighed = [(past.took, _weight(past, kind, age)) for age, past in enumerate(history)]
    if sum(weight for _, weight in weighed) < LEAST_LONGER:
        return TOO_LITTLE
    longer = sorted((took, weight) for took, weight in weighed if took > lasted)
    if sum(weight for _, weight in longer) < min(LEAST_LONGER, len(history) / 10):
        return OVERDUE
    p50, p90 = _quantiles(longer, MEDIAN, max(level, MEDIAN))
    return Forecast(
        p50=kind.since + timedelta(seconds=p50),
        p90=kind.since + timedelta(seconds=p90),
        basis=len(longer),
    )


def _weight(past: Past, kind: Kind, age: int) -> float:
    """How much a past job counts: 1 for the newest, if it was just like this one."""
    hours = abs(_hour(past.since) - _hour(kind.since))
    return math.exp(
        -abs(math.log(max(past.requests, 1) / max(kind.requests, 1))) / LIKE
        - abs(math.log((past.ahead + 100) / (kind.ahead + 100))) / LIKE
        - min(hours, 24 - hours) / HOURS
        - age / AGES
    )


def _hour(at: datetime) -> float:
    return at.timestamp() % 86_400 / 3600


def _quantiles(weighed: Sequence[tuple[float, float]], *levels: float) -> list[float]:
    """Return weighted quantiles of values in order. The job itself counts as one that is longest:
    so the quantiles are no lower than those that it would have a share in."""
    sums = list(accumulate(weight for _, weight in weighed))
    found = []
    for level in levels:
        wanted = level * (sums[-1] + max(weight for _, weight in weighed))
        at = next((n for n, reached in enumerate(sums) if reached >= wanted), len(sums) - 1)
        found.append(weighed[at][0])
    return found


def corrected(level: float, *, in_time: bool) -> float:
    """Return the level of the upper quantile after a job has ended, in time or late."""
    step = STEP * (UPPER - 1) if in_time else STEP * UPPER
    return min(max(level + step, MEDIAN), HIGHEST)


def half_time(since: datetime, found: Forecast) -> datetime:
    """Return when half of the time that a job is expected to take is over."""
    return since + (found.p50 - since) / 2


def ahead(
    waiting: Mapping[tuple[int, str], int],
    under_way: int,
    *,
    producer: str,
    priority: int,
    own: int,
) -> int:
    """Return how many requests of a lane go before a new job of `own` requests.

    `waiting` are requests by priority and producer, the job's own among them. What is under way
    and what has a higher priority goes before it; the same producer's came before it; and
    producers take turns, so of each other one's as many as of its own.
    """
    mine = waiting.get((priority, producer), own)
    return (
        under_way
        + max(mine - own, 0)
        + sum(n for (other, _), n in waiting.items() if other > priority)
        + sum(
            min(n, mine)
            for (other, name), n in waiting.items()
            if other == priority and name != producer
        )
    )


def last(found: Sequence[Forecast | NoForecast]) -> Forecast | NoForecast:
    """Return when the last of several ends."""
    known = [one for one in found if isinstance(one, Forecast)]
    if not known or len(known) < len(found):
        return next((one for one in found if isinstance(one, NoForecast)), NOT_YET)
    return Forecast(
        p50=max(one.p50 for one in known),
        p90=max(one.p90 for one in known),
        basis=min(one.basis for one in known),
    )


def not_past(found: Forecast, now: datetime) -> Forecast:
    """Return a forecast of which no instant has passed: what has moves on until it is made anew."""
    p90 = max(found.p90, now)
    p50 = found.p50 if found.p50 > now else now + (p90 - now) / 2
    return Forecast(p50=p50, p90=p90, basis=found.basis)
