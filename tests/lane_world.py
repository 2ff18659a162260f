"""A lane in virtual time: jobs arrive, batches run, Together has outages. A month takes seconds.

Decides with `service.rules.lanes`, as the store does, and plays what is around it: batches of up to
1,000 requests of one job each, which take a fixed time and fail whole while an outage lasts.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

from service.rules.lanes import (
    KEPT_JOBS,
    PROBE,
    Failure,
    Health,
    Phase,
    Seen,
    Trouble,
    back_by,
    counted,
    may_go_at_once,
    observe,
    rank,
    sent,
    sent_at_once,
    tick,
)
from service.rules.retry import MOST_UNCOUNTED, backoff, outage_pause
from service.rules.states import LaneState

BEGIN = datetime(2026, 11, 1, tzinfo=UTC)
REST = timedelta(seconds=60)
BASE = timedelta(seconds=10)
ATTEMPTS = 3
LARGEST = 1000


@dataclass(frozen=True)
class Outage:
    """From when until when, in seconds, and of which jobs (None: of all)."""

    begin: float
    end: float
    jobs: frozenset[int] | None = None

    def hits(self, now: float, job: int) -> bool:
        return self.begin <= now < self.end and (self.jobs is None or job in self.jobs)


@dataclass(frozen=True)
class Arrival:
    at: float
    producer: str
    requests: int


@dataclass(frozen=True)
class Part:
    """Requests that share a fate. Times in seconds."""

    job: int
    producer: str
    requests: int
    arrived: float
    ready: float
    lost: int = 0
    attempts: int = 0
    outage_since: float | None = None


@dataclass(frozen=True)
class Batch:
    number: int
    part: Part
    sent: float
    end: float
    probe: bool


@dataclass
class World:
    """`learns` is False for Haulier as it was before lanes had a state."""

    arrivals: Sequence[Arrival]
    outages: Sequence[Outage]
    seconds: float = 300.0
    learns: bool = True
    patience: float = 72 * 3600
    health: Health = field(default_factory=Health)
    now: float = 0.0
    waiting: list[Part] = field(default_factory=list)
    running: list[Batch] = field(default_factory=list)
    served: int = 0
    dead: int = 0
    dead_of: dict[int, int] = field(default_factory=dict)
    vain: int = 0
    """Requests that were executed and failed while an outage of all jobs lasted."""
    delays: dict[int, float] = field(default_factory=dict)
    """Of each job from its arrival to its last result."""
    moves: list[tuple[float, LaneState]] = field(default_factory=list)
    drained: list[tuple[float, float]] = field(default_factory=list)
    """(end of an outage, seconds until nothing waited any more)."""
    check: Callable[["World"], None] = lambda _: None
    _numbers: Iterable[int] = field(default_factory=count)

    def run(self, until: float) -> "World":
        """Let time pass until nothing is left to do, or until that many seconds."""
        coming = sorted(enumerate(self.arrivals), key=lambda each: each[1].at)
        ends = sorted(outage.end for outage in self.outages if outage.jobs is None)
        while self.now < until:
            while coming and coming[0][1].at <= self.now:
                job, arrival = coming.pop(0)
                self._arrive(job, arrival)
            for batch in [one for one in self.running if one.end <= self.now]:
                self.running.remove(batch)
                self._settle(batch)
            self._admit()
            self.check(self)
            while ends and ends[0] <= self.now and not self.waiting:
                self.drained.append((ends[0], self.now - ends.pop(0)))
            if not (coming or self.waiting or self.running):
                break
            self._pass(coming[0][1].at if coming else until)
        return self

    def _pass(self, arrival: float) -> None:
        times = [arrival, *(batch.end for batch in self.running)]
        times += [part.ready for part in self.waiting]
        if self.health.until is not None:
            times.append((self.health.until - BEGIN).total_seconds())
        later = [at for at in times if at > self.now]
        # A tick at least, since what may go can change without an instant of its own.
        self.now = max(min(later, default=self.now), self.now + 1)

    def _arrive(self, job: int, arrival: Arrival) -> None:
        left = arrival.requests
        while left:
            some = min(left, LARGEST)
            left -= some
            self.waiting.append(Part(job, arrival.producer, some, arrival.at, arrival.at))

    @property
    def _at(self) -> datetime:
        return BEGIN + timedelta(seconds=self.now)

    # --- what ends ---------------------------------------------------------------------------

    def _settle(self, batch: Batch) -> None:
        part = batch.part
        fails = any(outage.hits(self.now, part.job) for outage in self.outages)
        borne = not self.health.is_healthy and (
            part.outage_since is None or self.now - part.outage_since < self.patience
        )
        if self.learns:
            self._become(observe(self.health, self._seen(batch, fails), REST))
        if not fails:
            self.served += part.requests
            self.delays[part.job] = self.now - part.arrived
            return
        if any(outage.jobs is None and outage.hits(self.now, -1) for outage in self.outages):
            self.vain += part.requests
        self._fail(part, borne=borne)

    def _fail(self, part: Part, *, borne: bool) -> None:
        common = part.requests >= PROBE and part.attempts == 0
        since = part.outage_since if part.outage_since is not None else self.now
        if borne:
            again = replace(part, outage_since=since)
            pause = outage_pause(part.lost, BASE)
        elif common and part.lost < MOST_UNCOUNTED:
            again = replace(part, lost=part.lost + 1, outage_since=since)
            pause = outage_pause(again.lost, BASE)
        else:
            again = replace(part, attempts=part.attempts + 1, outage_since=None)
            pause = backoff(again.attempts, BASE, 1.0)
        if again.attempts >= ATTEMPTS:
            self.dead += part.requests
            self.dead_of[part.job] = self.dead_of.get(part.job, 0) + part.requests
            return
        ready = self.now + pause.total_seconds()
        self.waiting.append(replace(again, ready=ready))

    def _seen(self, batch: Batch, fails: bool) -> Seen:
        part, job = batch.part, UUID(int=batch.part.job)
        failure = Failure(
            batch=UUID(int=batch.number),
            at=self._at,
            kind=Trouble.LINES,
            text="internal server error",
            lines=part.requests,
            producer=part.producer,
            jobs=(job,)[:KEPT_JOBS],
        )
        # A request that failed before, at an attempt that counted, proves nothing.
        tells = fails and (batch.probe or part.attempts == 0)
        return Seen(
            at=self._at,
            sent_at=BEGIN + timedelta(seconds=batch.sent),
            producer=part.producer,
            jobs=(job,),
            well=not fails,
            failure=failure if tells else None,
            probe=batch.probe,
        )

    def _become(self, health: Health) -> None:
        if health.state is not self.health.state:
            self.moves.append((self.now, health.state))
            if health.state is not LaneState.RESTING:
                self.waiting = [
                    part if part.outage_since is None else replace(part, ready=self.now)
                    for part in self.waiting
                ]
        self.health = health

    # --- what is admitted --------------------------------------------------------------------

    def _admit(self) -> None:
        self._become(tick(self.health, self._at, REST))
        health = self.health
        if health.state is LaneState.RESTING:
            self._at_once()
        elif health.phase is Phase.TENTH:
            self._become(counted(health, sum(p.requests for p in self.waiting), self._at))
            self._tenth()
        elif health.state is LaneState.PROBING and not health.out:
            self._few()
        elif health.state is LaneState.PROBING:
            self._at_once()
        if self.health.is_healthy:
            for part in [one for one in self.waiting if one.ready <= self.now]:
                self._send(part, part.requests, probe=False)

    def _send(self, part: Part, most: int, *, probe: bool) -> int:
        self.waiting.remove(part)
        taken = min(most, part.requests)
        if taken < part.requests:
            self.waiting.append(replace(part, requests=part.requests - taken))
        some = replace(part, requests=taken)
        number = next(iter(self._numbers))
        self.running.append(Batch(number, some, self.now, self.now + self.seconds, probe))
        return taken

    def _fit(self) -> list[Part]:
        return [p for p in self.waiting if p.ready <= self.now or p.outage_since is not None]

    def _at_once(self) -> None:
        for part in [p for p in self.waiting if p.outage_since is None and not p.attempts]:
            job, since = UUID(int=part.job), BEGIN + timedelta(seconds=part.arrived)
            if part in self.waiting and may_go_at_once(self.health, job, part.producer, since):
                self._send(part, PROBE, probe=True)
                self._become(sent_at_once(self.health, job, part.producer))

    def _few(self) -> None:
        def key(part: Part) -> tuple[tuple[bool, bool], float]:
            return rank(self.health, UUID(int=part.job), part.producer), part.ready

        fit = self._fit()
        if fit:
            taken = self._send(min(fit, key=key), self.health.probe, probe=True)
            self._probe(taken)

    def _probe(self, taken: int) -> None:
        usual = timedelta(seconds=self.seconds)
        self._become(sent(self.health, taken, back_by(self.health, self._at, REST, usual)))

    def _tenth(self) -> None:
        while self.health.budget and (fit := self._fit()):
            heads = {part.producer: part for part in reversed(fit)}
            for part in heads.values():
                if self.health.budget:
                    share = max(-(-self.health.budget // len(heads)), PROBE)
                    self._probe(self._send(part, share, probe=True))
