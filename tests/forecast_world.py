"""A lane in virtual time, to count how many of its forecasts come true. A month takes seconds.

Forecasts are made by `service.rules.forecast`, when and as the store makes them. What is around
them is played: jobs of very different sizes come more often by day than by night; Together takes
longer by day, takes longer and longer as the month goes on, and stands still in outages; it runs a
few jobs at a time, so the others wait; some jobs take a second attempt.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from random import Random

from service.rules.forecast import (
    HISTORY,
    Experience,
    Forecast,
    Kind,
    Past,
    corrected,
    half_time,
)

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0


@dataclass(frozen=True, kw_only=True)
class Climate:
    """How a lane is. Times in seconds."""

    days: int = 30
    between: float = 10 * MINUTE
    """Between two jobs, on average; half of it in the afternoon, and twice in the night."""
    slots: int = 16
    """Jobs that Together runs at a time."""
    rhythm: float = 0.5
    """By how much it is slower in the afternoon, and faster in the night."""
    drift: float = 1.0
    """By how much it is slower after the month."""
    noise: float = 0.35
    """The standard deviation of the logarithm of how long equal jobs take."""
    again: float = 0.08
    """The share of jobs that take a second attempt."""
    outages: Sequence[tuple[float, float]] = ()
    """From when until when."""


@dataclass(eq=False)
class Job:
    kind: Kind
    said: datetime | None = None
    median: datetime | None = None
    half: datetime | None = None
    asked_at_half: bool = False
    end: datetime = BEGIN


@dataclass
class Told:
    """What was said, and what became of it."""

    jobs: int = 0
    ended: int = 0
    in_time: int = 0
    by_median: int = 0
    half_ended: int = 0
    half_in_time: int = 0
    widths: list[float] = field(default_factory=list)
    """How long until the 90 % instant, in times of how long the job took."""
    days: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def coverage(self) -> float:
        return self.in_time / self.ended

    @property
    def half_coverage(self) -> float:
        return self.half_in_time / self.half_ended


def play(climate: Climate, seed: int, *, corrects: bool = True) -> Told:
    """Run a lane for its month. `corrects`: whether the stretch follows what is counted."""
    told = Told()
    history: deque[Past] = deque(maxlen=HISTORY)
    known: Experience | None = None
    stretches = {"said": 1.0, "half": 1.0}

    def say(job: Job, now: datetime, stretch: float) -> Forecast | None:
        nonlocal known
        # Fitted anew every few jobs: that costs more than to look.
        if known is None or told.ended % 5 == 0:
            known = Experience(list(history))
        found = known.forecast(job.kind, now, stretch)
        return found if isinstance(found, Forecast) else None

    for now, what, job in _events(climate, Random(seed)):
        if what == "comes":
            told.jobs += 1
            found = say(job, now, stretches["said"])
            if found is not None:
                job.said, job.median = found.p90, found.p50
                at = half_time(now, found)
                if at < job.end:
                    later = say(job, at, stretches["half"])
                    job.half = None if later is None else later.p90
        else:
            took = (now - job.kind.since).total_seconds()
            history.appendleft(Past(**vars(job.kind), took=took))
            _count(told, stretches, job, corrects=corrects)
    return told


def _count(told: Told, stretches: dict[str, float], job: Job, *, corrects: bool) -> None:
    for name, by in (("said", job.said), ("half", job.half)):
        if by is not None and corrects:
            stretches[name] = corrected(stretches[name], in_time=job.end <= by)
    if job.said is not None:
        told.ended += 1
        told.in_time += job.end <= job.said
        told.by_median += job.median is not None and job.end <= job.median
        told.widths.append((job.said - job.kind.since) / (job.end - job.kind.since))
        day = (job.kind.since - BEGIN).days
        ended, in_time = told.days.get(day, (0, 0))
        told.days[day] = (ended + 1, in_time + (job.end <= job.said))
    if job.half is not None:
        told.half_ended += 1
        told.half_in_time += job.end <= job.half


def _events(climate: Climate, random: Random) -> Iterator[tuple[datetime, str, Job]]:
    """Yield jobs as they come and as they end, in the order of time."""
    free = [0.0] * climate.slots
    under_way: list[tuple[float, int, Job]] = []
    at, number = 0.0, 0
    while True:
        at += random.expovariate(1 / climate.between) * 2 ** -_sun(at)
        while under_way and (under_way[0][0] <= at or at > climate.days * DAY):
            end, _, job = heappop(under_way)
            yield BEGIN + timedelta(seconds=end), "ends", job
        if at > climate.days * DAY:
            return
        requests = max(1, round(random.lognormvariate(5.5, 1.6)))
        ahead = sum(job.kind.requests for _, _, job in under_way)
        since = BEGIN + timedelta(seconds=at)
        job = Job(Kind(requests=requests, ahead=ahead, since=since))
        end = max(heappop(free), at)
        for _ in range(2 if random.random() < climate.again else 1):
            end = _after(climate, end, _seconds(climate, random, end, requests))
        heappush(free, end)
        job.end = BEGIN + timedelta(seconds=end)
        number += 1
        heappush(under_way, (end, number, job))
        yield since, "comes", job


def _sun(at: float) -> float:
    """From -1 in the night to 1 in the afternoon."""
    return math.sin((at / DAY - 0.375) * 2 * math.pi)


def _seconds(climate: Climate, random: Random, at: float, requests: int) -> float:
    usual = 5 * MINUTE + requests * 1.5
    slower = (1 + climate.rhythm * _sun(at)) * (1 + climate.drift * at / (climate.days * DAY))
    return usual * slower * random.lognormvariate(0, climate.noise)


def _after(climate: Climate, at: float, seconds: float) -> float:
    """When work of so many seconds ends that begins then: outages stop it."""
    end = at + seconds
    for begin, over in climate.outages:
        if begin < end and at < over:
            end += over - max(begin, at)
    return end
