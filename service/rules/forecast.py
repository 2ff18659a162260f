"""When a job will be done: instants by which it ends with 50 % and with 90 %. Pure.

The jobs of a lane that have ended are its experience. From them comes a simple guess of how long a
job takes: something for any job, and something for each of its requests and for each that waits
before it. How far off that guess was for each of them says the rest: of those that were like this
one in size and hour, and lately, the quantiles of (took / guess), among those that would have
lasted longer than this one has. So a forecast can neither lie in the past nor put 90 % before 50 %.

How many jobs in fact end in time is counted, and what is left until the 90 % instant is stretched
by that (adaptive conformal inference): a job that ends late stretches it, each that ends in time
shrinks it a ninth as much, so that in the long run nine of ten end in time, however a lane drifts.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
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
LIKE = math.log(8)
"""Jobs of an eighth of the size, or eight times as large, count e times less."""
HOURS = 4.0
"""Jobs of another hour of the day: e times less for each of these."""
AGES = 120.0
"""Jobs that ended before so many others: e times less."""

STEP = 0.06
"""By how much the stretch follows what is counted."""
LEAST_STRETCH, MOST_STRETCH = 0.2, 10.0

LONGEST = 10 * 365 * 86_400.0
"""Seconds. What is further away than this is not told apart."""


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


@dataclass(frozen=True)
class _Memory:
    """A job that has ended, as it is compared with others."""

    size: float
    hour: float
    ratio: float
    """How long it took, in times of the guess."""
    weight: float


class Experience:
    """What a lane has learned from its jobs that ended, the newest first."""

    def __init__(self, history: Sequence[Past]) -> None:
        self.jobs = len(history)
        self._guess = _fitted(history)
        self._memories = [
            _Memory(
                size=_size(past),
                hour=_hour(past),
                ratio=past.took / self._guess(past),
                weight=math.exp(-age / AGES),
            )
            for age, past in enumerate(history)
        ]

    def forecast(self, kind: Kind, now: datetime, stretch: float = 1.0) -> Forecast | NoForecast:
        """Say when a job ends. `stretch` is what `corrected` has left of the way to 90 %."""
        if self.jobs < LEAST:
            return TOO_LITTLE
        begin = max(now, kind.since)
        guess, lasted = self._guess(kind), (begin - kind.since).total_seconds()
        size, hour = _size(kind), _hour(kind)
        longer = sorted(
            (memory.ratio, memory.weight * _likeness(memory, size, hour))
            for memory in self._memories
            if memory.ratio * guess > lasted
        )
        if len(longer) < LEAST_LONGER:
            return OVERDUE
        p50, p90 = (guess * ratio - lasted for ratio in _quantiles(longer, MEDIAN, UPPER))
        return Forecast(
            p50=begin + timedelta(seconds=min(p50, LONGEST)),
            p90=begin + timedelta(seconds=min(max(p50, p90 * stretch), LONGEST)),
            basis=len(longer),
        )


def _size(kind: Kind) -> float:
    return math.log(max(kind.requests, 1)) / LIKE


def _hour(kind: Kind) -> float:
    return kind.since.timestamp() % 86_400 / 3600


def _likeness(memory: _Memory, size: float, hour: float) -> float:
    """How much a past job counts: 1 if it was just like this one."""
    hours = abs(memory.hour - hour)
    return math.exp(-abs(memory.size - size) - min(hours, 24 - hours) / HOURS)


def _fitted(history: Sequence[Past]) -> Callable[[Kind], float]:
    """Fit the seconds for any job, for a request of it, and for one before it: least squares.

    Errors count in proportion to the job's time, so that long jobs do not decide alone.
    """
    a = [[0.0] * 3 for _ in range(3)]
    b = [0.0] * 3
    for age, past in enumerate(history):
        took = max(past.took, 0.001)
        row = [1 / took, past.requests / took, past.ahead / took]
        weight = math.exp(-age / AGES)
        for i in range(3):
            b[i] += weight * row[i]
            for j in range(3):
                a[i][j] += weight * row[i] * row[j]
    base, each, before = _least(a, b)

    def guess(kind: Kind) -> float:
        return max(base + each * kind.requests + before * kind.ahead, 0.001)

    return guess


def _least(a: list[list[float]], b: list[float]) -> list[float]:
    """Solve a x = b with no x below 0, one after the other until none changes much."""
    x = [0.0] * len(b)
    for _ in range(200):
        for i, row in enumerate(a):
            if row[i] > 0:
                rest = sum(row[j] * x[j] for j in range(len(x)) if j != i)
                x[i] = max((b[i] - rest) / row[i], 0.0)
    return x


def _quantiles(weighed: Sequence[tuple[float, float]], *levels: float) -> list[float]:
    """Return weighted quantiles of values in order.

    The job itself counts as one that lasts the longest, as in split-conformal prediction.
    """
    sums = list(accumulate(weight for _, weight in weighed))
    whole = sums[-1] + max(weight for _, weight in weighed)
    at = (bisect_left(sums, level * whole) for level in levels)
    return [weighed[min(n, len(weighed) - 1)][0] for n in at]


def corrected(stretch: float, *, in_time: bool) -> float:
    """Return the stretch of the way to the 90 % instant after a job has ended, in time or late."""
    step = STEP * (UPPER - 1) if in_time else STEP * UPPER
    return min(max(stretch * math.exp(step), LEAST_STRETCH), MOST_STRETCH)


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


def differs(
    said: Forecast | NoForecast | None, found: Forecast | NoForecast | None, since: datetime
) -> bool:
    """Whether a forecast has changed enough to be told: by a tenth, or altogether."""
    if not isinstance(said, Forecast) or not isinstance(found, Forecast):
        return said != found
    return abs(found.p90 - said.p90) > (found.p90 - since) / 10


def not_past(found: Forecast, now: datetime) -> Forecast:
    """Return a forecast of which no instant has passed: what has moves on until it is made anew."""
    p90 = max(found.p90, now)
    p50 = found.p50 if found.p50 > now else now + (p90 - now) / 2
    return Forecast(p50=p50, p90=p90, basis=found.basis)
