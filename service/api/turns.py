"""Turns: one producer's calls are worked on between those of others, and not instead of them.

A process works on one thing at a time, whatever the number of its threads. So only a few calls of
a producer are worked on at once while others call as well; the rest wait in order. Who had more
than its share of late also lets the calls of others pass that had less.

A call has its turn while something is computed or looked up for it, and not while its body
arrives, while its answer is sent, or while it waits for others. What is stored together with
others' (service.api.gathering) has a turn of its own. A call waits for its first turn at the
turnstile (service.api.turnstile), where it weighs little.
"""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

AT_ONCE = 2
"""Calls of one producer that are worked on at once, while others call."""
ALONE = 10
"""Those of a producer while nobody else calls: as many as there are connections to Postgres. Each
may make a list of many megabytes."""
WINDOW = 1.0
"""Seconds over which is counted who had how much: this one and the one before it."""
SLACK = 0.05
"""Seconds of work that nobody counts."""
PATIENCE = 0.1
"""Seconds for which a call lets those of others pass at most."""
LONGEST = 1.0
"""Seconds after which a call that is still worked on is no reason any more for others to wait:
it waits itself, for a lock or for storage."""


@dataclass(eq=False, slots=True)
class Turn:
    """The turns of one call, of a producer or of somebody unknown (""). Ends with `leave`."""

    turns: "Turns"
    producer: str
    _goes_on: bool = False
    _since: float | None = None
    _end: asyncio.TimerHandle | None = field(default=None, repr=False)

    async def take(self) -> None:
        """Wait for a turn, if the call has none."""
        if self._since is None:
            await self.turns.admitted(self.producer, goes_on=self._goes_on)
            self._begin()

    def take_at_once(self) -> None:
        """Take a turn without waiting for one, even if it is one more than the producer may have.

        For work that others wait behind, whoever they are.
        """
        if self._since is None:
            self.turns.admit(self.producer)
            self._begin()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._goes_on = True
        self._since = loop.time()
        self._end = loop.call_later(LONGEST, self.leave)

    def leave(self) -> None:
        """End the turn, if the call has one."""
        if self._since is None or self._end is None:
            return
        since, self._since = self._since, None
        self._end.cancel()
        self.turns.left(self.producer, since)

    async def of(self, producer: str) -> None:
        """Go on as the call of a producer, once it is known whose it is."""
        if producer != self.producer:
            self.leave()
            self.producer = producer
            await self.take()


_turn: ContextVar[Turn | None] = ContextVar("turn", default=None)


@contextmanager
def within(turn: Turn) -> Iterator[None]:
    """Make a turn that of the present call, and end it after the block."""
    token = _turn.set(turn)
    try:
        yield
    finally:
        _turn.reset(token)
        turn.leave()


def leave() -> None:
    """End the turn of the present call, if it has one. For whoever is about to wait for others."""
    if turn := _turn.get():
        turn.leave()


def present() -> Turn | None:
    """Return the turn of the present call; None if nobody gave it one."""
    return _turn.get()


@dataclass(eq=False, slots=True)
class _Waiting:
    admitted: "asyncio.Future[None]"
    is_patient: bool = True


@dataclass
class _Line:
    """The calls of a producer that wait. Those that had a turn before go first.

    Their bodies are here, and they are nearly done. Behind thousands that just came, they would
    pile up.
    """

    going_on: deque[_Waiting] = field(default_factory=deque)
    new: deque[_Waiting] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.going_on) + len(self.new)

    @property
    def first(self) -> _Waiting:
        return (self.going_on or self.new)[0]

    def pop(self) -> _Waiting:
        return (self.going_on or self.new).popleft()


class Turns:
    """The calls of this process that are worked on, and those that wait for that."""

    def __init__(self) -> None:
        self._in_work: Counter[str] = Counter()
        self._waiting: dict[str, _Line] = {}
        self._began = 0.0
        self._now: defaultdict[str, float] = defaultdict(float)
        """Seconds of work in this window, and in the one before it."""
        self._before: defaultdict[str, float] = defaultdict(float)

    def turn(self, producer: str) -> Turn:
        return Turn(self, producer)

    def waiting(self, producer: str) -> int:
        """How many calls of a producer wait for a turn."""
        return len(self._waiting.get(producer, ()))

    async def admitted(self, producer: str, *, goes_on: bool = False) -> None:
        """Count one call as worked on, as soon as it may be. One that goes on had a turn before."""
        loop = asyncio.get_running_loop()
        self._look_at_window(loop.time())
        if producer not in self._waiting and self._may(producer) and not self._yields(producer):
            self.admit(producer)
            return
        waiting = _Waiting(loop.create_future())
        line = self._waiting.setdefault(producer, _Line())
        (line.going_on if goes_on else line.new).append(waiting)
        patience = loop.call_later(PATIENCE, self._end_patience, waiting)
        try:
            await waiting.admitted
        except asyncio.CancelledError:
            if waiting.admitted.cancelled():
                self._admit()
            else:  # its turn came at the same moment
                self.left(producer, loop.time())
            raise
        finally:
            patience.cancel()

    def admit(self, producer: str) -> None:
        """Count one call as worked on."""
        self._in_work[producer] += 1

    def left(self, producer: str, since: float) -> None:
        """A call is no longer worked on."""
        now = asyncio.get_running_loop().time()
        self._look_at_window(now)
        self._now[producer] += now - since
        self._in_work[producer] -= 1
        if not self._in_work[producer]:
            del self._in_work[producer]
        self._admit()

    def _end_patience(self, one: _Waiting) -> None:
        one.is_patient = False
        self._admit()

    def _admit(self) -> None:
        for producer, waiting in list(self._waiting.items()):
            while waiting and (waiting.first.admitted.cancelled() or self._is_due(producer)):
                one = waiting.pop()
                if not one.admitted.cancelled():
                    self.admit(producer)
                    one.admitted.set_result(None)
            if not waiting:
                del self._waiting[producer]

    def _is_due(self, producer: str) -> bool:
        is_patient = self._waiting[producer].first.is_patient
        return self._may(producer) and not (is_patient and self._yields(producer))

    def _may(self, producer: str) -> bool:
        """Whether a producer may have one more call worked on."""
        others = (*self._in_work, *self._now, *self._before)
        most = AT_ONCE if any(other != producer for other in others) else ALONE
        return self._in_work[producer] < most

    def _yields(self, producer: str) -> bool:
        """Whether a producer lets one pass that had much less than it of late."""
        had = self._had(producer)
        return had > SLACK and any(
            other != producer and had > 2 * self._had(other) + SLACK for other in self._in_work
        )

    def _had(self, producer: str) -> float:
        return self._now.get(producer, 0.0) + self._before.get(producer, 0.0)

    def _look_at_window(self, now: float) -> None:
        if now - self._began > WINDOW:
            self._before = self._now if now - self._began < 2 * WINDOW else defaultdict(float)
            self._now, self._began = defaultdict(float), now
