"""How a lane is: what its batches say of it, and what may therefore be sent. Pure.

Two jobs that fail alike with trouble at Together make a lane rest. After a while a few requests go
as a probe; when these come back well, a tenth of what waits follows, then all. What one job alone
meets with says nothing about its lane. docs/lanes.md explains each rule.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

import msgspec
from msgspec.structs import replace

from service.rules.states import LaneState, check_move

PROBE = 20
"""The most requests of a probe."""
FEW = 10 * PROBE
"""Of so few requests that wait, a tenth would tell no more than the probe did."""
EVIDENCE_LINES = 20
"""The fewest requests that must have failed alike."""
LONGEST_REST = timedelta(hours=1)
FRESH = 5
"""For so many first rests, what another producer was served outweighs one producer's failures."""
MEMORY = 60
"""For so many first rests, failures are remembered, and so is that a lane has rested."""
REMEMBERED = timedelta(minutes=10)
"""How long failures are remembered at least."""
AT_ONCE = 3
"""How many new jobs of a producer may send a probe during one rest."""
OFFENCES = 2
"""So often a job must fail while others are served before its failures are taken as its own."""
MOST_KEPT = 32
"""The most failures, jobs and producers that a lane remembers of each."""
KEPT_JOBS = 4
"""The most jobs that one failure names: two are evidence."""


class Trouble(StrEnum):
    """What failed."""

    LINES = "lines"  # most requests of a batch
    BATCHES = "batches"  # batches as a whole
    CREATES = "creates"  # creates of batches


class Phase(StrEnum):
    """How far the probing of a lane has come."""

    PROBE = "probe"
    TENTH = "tenth"


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of which most failed alike. `text` is that of `rules.alike`."""

    batch: UUID
    at: datetime
    kind: Trouble
    text: str
    lines: int
    producer: str
    jobs: tuple[UUID, ...]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch says of its lane, at the end or when its create failed or passed.

    With a failure it was ill; if most of its requests were served, it was `well`; else it says
    nothing. `sent_at` is when Together accepted it, `jobs` are those that were served.
    """

    at: datetime
    sent_at: datetime
    producer: str
    jobs: tuple[UUID, ...] = ()
    well: bool = False
    failure: Failure | None = None
    probe: bool = False
    """Whether it was let in to find out how the lane is."""
    created: bool = False
    """Whether it has only been created: that proves nothing unless creates were what failed."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a lane, and what it remembers. The default is that of a new lane."""

    state: LaneState = LaneState.HEALTHY
    since: datetime | None = None
    ill_since: datetime | None = None
    """Since when it has not been healthy."""
    until: datetime | None = None
    """When the rest ends; while probing, by when the probe must be back."""
    rests: int = 0
    """The number of rests in a row."""
    failures: tuple[Failure, ...] = ()
    """Newest last; those that something contradicted are gone."""
    offences: dict[UUID, int] = {}
    """How often each job failed while others were served, since it was served itself."""
    served: dict[str, datetime] = {}
    """When each producer was last served."""
    phase: Phase | None = None
    out: int = 0
    """The number of batches under way that probe."""
    budget: int | None = None
    """How many requests of the tenth may still go; None until it was counted what waits."""
    blank: int = 0
    """How many probes in a row said nothing."""
    at_once: dict[UUID, str] = {}
    """The new jobs that have sent a probe during this rest, and their producers."""

    @property
    def is_healthy(self) -> bool:
        return self.state is LaneState.HEALTHY

    @property
    def evidence(self) -> Failure | None:
        """The newest failure, while the lane is not healthy."""
        return self.failures[-1] if self.failures and not self.is_healthy else None

    @property
    def ill_jobs(self) -> frozenset[UUID]:
        return frozenset(job for failure in self.failures for job in failure.jobs)

    @property
    def ill_producers(self) -> frozenset[str]:
        return frozenset(failure.producer for failure in self.failures)

    @property
    def alone(self) -> frozenset[UUID]:
        """The jobs whose failures are no evidence against the lane."""
        return frozenset(job for job, times in self.offences.items() if times >= OFFENCES)

    @property
    def probe(self) -> int:
        """The most requests of the next probe: more if those before it said nothing."""
        return int(PROBE * 2 ** min(self.blank, 10))


def rest_for(rests: int, first: timedelta) -> timedelta:
    """Return how long the n-th rest in a row takes (n from 1): doubling, at most an hour."""
    doubled: timedelta = first * 2 ** min(max(rests, 1) - 1, 12)
    return min(doubled, max(LONGEST_REST, first))


def observe(health: Health, seen: Seen, rest: timedelta) -> Health:
    """Take in what a batch says. `rest` is the length of a first rest."""
    if seen.failure is not None:
        return _ill(health, seen, seen.failure, rest)
    if seen.created:
        return _created(health, seen)
    if seen.well:
        return _well(health, seen)
    if seen.probe and health.state is LaneState.PROBING:
        return replace(health, out=max(health.out - 1, 0), blank=health.blank + 1)
    return health


def _ill(health: Health, seen: Seen, failure: Failure, rest: timedelta) -> Health:
    since = seen.at - max(rest * MEMORY, REMEMBERED)
    kept = [old for old in health.failures if old.at >= since and old.batch != failure.batch]
    if not seen.probe and set(failure.jobs) <= health.alone:
        return health
    health = replace(health, failures=(*kept, failure)[-MOST_KEPT:])
    match health.state:
        case LaneState.HEALTHY if is_evidence(health, failure, rest):
            long_ago = health.since is None or seen.at - health.since > rest * MEMORY
            rests = 0 if long_ago else health.rests
            return _rest(replace(health, ill_since=seen.at, rests=rests), seen.at, rest)
        case LaneState.PROBING if seen.probe:
            return _rest(health, seen.at, rest)
    return health


def is_evidence(health: Health, failure: Failure, rest: timedelta) -> bool:
    """Whether the newest failure and those like it are evidence against the whole lane."""
    like = [
        other
        for other in health.failures
        if (other.kind, other.text) == (failure.kind, failure.text)
        and not set(other.jobs) <= health.alone
    ]
    jobs = {job for other in like for job in other.jobs} - health.alone
    if len(jobs) < 2:
        return False
    if failure.kind is Trouble.LINES:
        if sum(other.lines for other in like) < EVIDENCE_LINES:
            return False
    elif len({other.batch for other in like}) < 2:
        return False
    producers = {other.producer for other in like}
    others = [at for producer, at in health.served.items() if producer not in producers]
    # One producer's requests may all share a fault, such as an image host that is down.
    return len(producers) > 1 or all(failure.at - at > rest * FRESH for at in others)


def _rest(health: Health, now: datetime, rest: timedelta) -> Health:
    rests = health.rests + 1
    return replace(
        _moved(health, LaneState.RESTING, now),
        rests=rests,
        until=now + rest_for(rests, rest),
        at_once={},
    )


def _moved(health: Health, to: LaneState, now: datetime, phase: Phase | None = None) -> Health:
    check_move(health.state, to)
    return replace(
        health, state=to, since=now, until=None, phase=phase, out=0, budget=None, blank=0
    )


def _well(health: Health, seen: Seen) -> Health:
    health = _contradicted(health, seen)
    if health.is_healthy or health.ill_since is None:
        return health
    if seen.sent_at < health.ill_since:
        # It may have been served before the trouble began. A probe finds out at once.
        return _probing(health, seen.at) if _rests(health) else health
    if _rests(health):
        health = _probing(health, seen.at)
    if health.phase is Phase.TENTH or _is_cleared(health, seen):
        return healed(health, seen.at, seen.jobs)
    return replace(health, phase=Phase.TENTH, out=0, budget=None, until=None, blank=0)


def _rests(health: Health) -> bool:
    return health.state is LaneState.RESTING


def _is_cleared(health: Health, seen: Seen) -> bool:
    """Whether only one producer's jobs were ill, and another one's were served."""
    return len(health.ill_producers | {seen.producer}) > 1 and len(health.ill_producers) <= 1


def _contradicted(health: Health, seen: Seen) -> Health:
    """Remember who was served, and that those who failed before failed alone."""
    served = {**health.served, seen.producer: seen.at}
    if len(served) > MOST_KEPT:
        served.pop(min(served, key=lambda producer: served[producer]))
    offences = {job: n for job, n in health.offences.items() if job not in seen.jobs}
    health = replace(health, served=served, offences=offences)
    if not health.is_healthy:
        return health
    before = [failure for failure in health.failures if failure.at <= seen.sent_at]
    kept = tuple(failure for failure in health.failures if failure not in before)
    return replace(_offended(health, before, seen.jobs), failures=kept)


def _offended(health: Health, failures: Iterable[Failure], served: Collection[UUID]) -> Health:
    """Remember who failed while others were served."""
    offences = dict(health.offences)
    # In order, so that equal histories make equal memories.
    for job in sorted({job for failure in failures for job in failure.jobs} - set(served)):
        offences[job] = offences.pop(job, 0) + 1
    newest = list(offences.items())[-MOST_KEPT:]
    return replace(health, offences=dict(newest))


def _created(health: Health, seen: Seen) -> Health:
    """A create that passes contradicts creates that failed, and nothing else."""
    if any(failure.kind is not Trouble.CREATES for failure in health.failures):
        return health
    if health.is_healthy:
        return replace(health, failures=())
    if _rests(health):
        health = _probing(health, seen.at)
    return healed(replace(health, failures=()), seen.at)


def _probing(health: Health, now: datetime) -> Health:
    return _moved(health, LaneState.PROBING, now, Phase.PROBE)


def healed(health: Health, now: datetime, served: Collection[UUID] = ()) -> Health:
    """Make a lane healthy. Where others were `served`, those that were ill failed alone."""
    ill = health.failures if set(served) - health.ill_jobs else ()
    return replace(
        _moved(_offended(health, ill, served), LaneState.HEALTHY, now),
        ill_since=None,
        failures=(),
        at_once={},
    )


def tick(health: Health, now: datetime, rest: timedelta) -> Health:
    """Take in that time has passed: a rest ends, and a probe that does not come back is ill."""
    if health.until is None or health.until > now:
        return health
    if _rests(health):
        return _probing(health, now)
    return _rest(health, now, rest)


def counted(health: Health, waiting: int, now: datetime) -> Health:
    """Take in how many requests wait, once the probe came back well."""
    if health.phase is not Phase.TENTH or health.budget is not None:
        return health
    if waiting <= FEW:
        return healed(health, now)
    return replace(health, budget=-(-waiting // 10))


def sent(health: Health, requests: int, back_by: datetime) -> Health:
    """Take in that a batch of so many requests goes to probe the lane."""
    budget = None if health.budget is None else max(health.budget - requests, 0)
    return replace(
        health, out=health.out + 1, budget=budget, until=max(health.until or back_by, back_by)
    )


def sent_at_once(health: Health, job: UUID, producer: str) -> Health:
    """Take in that a new job sends its probe at once."""
    return replace(health, at_once={**health.at_once, job: producer})


def may_go_at_once(health: Health, job: UUID, producer: str, since: datetime) -> bool:
    """Whether a job that nothing failed of may send a probe although the lane is ill.

    It waits `since` then. New jobs may, and those of others if only one producer's jobs are ill.
    """
    if health.ill_since is None or health.phase is Phase.TENTH or job in health.at_once:
        return False
    if job in health.ill_jobs or job in health.offences or len(health.at_once) >= 4 * MOST_KEPT:
        return False
    is_other = len(health.ill_producers) == 1 and producer not in health.ill_producers
    if since < health.ill_since and not is_other:
        return False
    return list(health.at_once.values()).count(producer) < AT_ONCE


def probed_now(health: Health, now: datetime) -> Health:
    """Do what an operator asks for: end the rest, or send another probe."""
    if _rests(health):
        return _probing(health, now)
    return replace(health, out=0, until=None)


def back_by(health: Health, now: datetime, rest: timedelta, usual: timedelta | None) -> datetime:
    """Return by when a probe must be back. `usual` is how long such batches take."""
    return now + max(rest_for(health.rests, rest), rest * MEMORY, (usual or timedelta(0)) * 3)


def rank(health: Health, job: UUID, producer: str) -> tuple[bool, bool]:
    """Return how well a job serves as a probe: others than those that fell ill come first."""
    return job in health.ill_jobs or job in health.offences, producer in health.ill_producers


@dataclass(frozen=True, kw_only=True)
class Signs:
    """What the end of a batch says of its lane, without the batch's own names and times.

    With `trouble`, most of the requests failed alike, and `jobs` are those of these requests; if
    it is `well`, most were served, and `jobs` are those of them.
    """

    jobs: tuple[UUID, ...] = ()
    well: bool = False
    trouble: Trouble | None = None
    text: str = ""
    lines: int = 0


def next_step(health: Health, *, paused: bool, account_paused: bool = False) -> str:
    """Say in a sentence what comes next."""
    if account_paused:
        return "an operator has paused its account, and can resume it"
    if paused:
        return "an operator has paused it, and can resume it"
    match health.state:
        case LaneState.HEALTHY:
            return "what waits is admitted as there is room"
        case LaneState.RESTING:
            return "a probe goes when the rest is over, or when a new job comes"
        case _ if health.phase is Phase.TENTH:
            return "a tenth of what waits is under way; if it comes back well, the rest goes"
        case _ if health.out:
            return "a probe is under way; if it comes back well, a tenth of what waits goes"
        case _:
            return "the next requests that wait go as a probe"
