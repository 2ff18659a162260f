"""Choose which waiting batches are admitted next. Pure arithmetic.

Higher priority first; within a priority, the producer with the fewest requests under way; of one
producer's, what waits the longest. Every OLDEST-th that is let in is the one that has waited the
longest whatever its priority, so that nothing waits for ever.
"""

from collections import defaultdict, deque
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from heapq import heappop, heappush
from itertools import count
from typing import Self
from uuid import UUID

from config.settings import Settings

OLDEST = 8

TOKENS_PER_BYTE = 0.25
"""The estimate until usage is known: a token is about four bytes of a request line."""

LaneName = tuple[str, str, str]
"""(account, endpoint, model)"""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A batch that waits for admission. `tokens` is an estimate."""

    id: UUID
    lane: LaneName
    producer: str
    priority: int
    since: datetime
    requests: int
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The most that a lane may have at Together at once. None: no limit."""

    batches: int | None
    tokens: int

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(batches=settings.max_inflight_batches, tokens=settings.max_enqueued_tokens)


@dataclass(kw_only=True)
class Load:
    """The load of a lane: batches and tokens under way, and batches ever admitted."""

    batches: int = 0
    tokens: int = 0
    admitted: int = 0

    def lacks(self, capacity: Capacity, tokens: int) -> str | None:
        """Return what a batch of `tokens` finds no capacity for, or None if it may be admitted.

        An empty lane takes any batch: a limit below the size of one batch must not stop it.
        """
        if capacity.batches is not None and self.batches >= capacity.batches:
            return "batches"
        if self.tokens and self.tokens + tokens > capacity.tokens:
            return "tokens"
        return None


@dataclass(kw_only=True)
class Scene:
    """The load of every lane, and the requests under way of every producer."""

    lanes: defaultdict[LaneName, Load] = field(default_factory=lambda: defaultdict(Load))
    producers: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, batch: Waiting) -> None:
        """Count a batch that is admitted."""
        load = self.lanes[batch.lane]
        load.batches += 1
        load.tokens += batch.tokens
        load.admitted += 1
        self.producers[batch.producer] += batch.requests


def choose(
    waiting: Iterable[Waiting], scene: Scene, capacity: Capacity, limit: int
) -> list[Waiting]:
    """Return at most `limit` of the waiting batches, in the order in which they are admitted."""
    choice = _Choice(waiting, deepcopy(scene), capacity)
    chosen: list[Waiting] = []
    while len(chosen) < limit and (batch := choice.take()) is not None:
        chosen.append(batch)
    return chosen


class _Fit(Enum):
    YES = auto()
    NOT_NOW = auto()
    """Another batch of its lane has to go before."""
    NO = auto()
    """Not any more: what is under way only grows while batches are chosen."""


@dataclass(eq=False)
class _Group:
    """What waits in one lane with one priority from one producer, oldest first."""

    lane: LaneName
    line: tuple[int, str]
    """(priority, producer)"""
    queue: deque[Waiting] = field(default_factory=deque)


# A place in a heap: (since, number, group). It is stale once the group has another head.
_Heap = list[tuple[datetime, int, _Group]]


_Rank = tuple[int, int, datetime, tuple[int, str]]
"""(-priority, requests under way, since, line)"""


class _Choice:
    """Takes batches one by one. What each costs grows with the logarithm of how many groups wait.

    The next batch is the one of highest priority, then of the producer that has least under way,
    then the oldest; each eighth is the oldest of all. The heaps are looked after as they are used:
    a place whose key has become too small is put back with its true key.
    """

    def __init__(self, waiting: Iterable[Waiting], scene: Scene, capacity: Capacity) -> None:
        self._scene = scene
        self._capacity = capacity
        self._admitted = sum(load.admitted for load in scene.lanes.values())
        self._numbers = count()
        self._oldest: _Heap = []
        self._lanes: defaultdict[LaneName, _Heap] = defaultdict(list)
        self._lines: defaultdict[tuple[int, str], _Heap] = defaultdict(list)
        self._best: list[_Rank] = []
        self._ranks: dict[tuple[int, str], _Rank] = {}
        """Of each line the one that counts; others of it in the heap are out of date."""
        self._passed_over: defaultdict[LaneName, set[_Group]] = defaultdict(set)
        groups: dict[tuple[LaneName, int, str], _Group] = {}
        for batch in sorted(waiting, key=lambda batch: batch.since):
            key = batch.lane, batch.priority, batch.producer
            group = groups.setdefault(key, _Group(batch.lane, (batch.priority, batch.producer)))
            group.queue.append(batch)
        for group in groups.values():
            heappush(self._lanes[group.lane], self._place(group))
            self._offer(group)

    def take(self) -> Waiting | None:
        """Return the next batch, or None if no lane has capacity for any that may go."""
        group = self._oldest_group() if _oldest_is_next(self._admitted) else self._best_group()
        if group is None:
            return None
        batch = group.queue.popleft()
        self._scene.add(batch)
        self._admitted += 1
        if group.queue:
            heappush(self._lanes[group.lane], self._place(group))
            self._offer(group)
        for other in self._passed_over.pop(group.lane, ()):
            if other is not group:
                self._offer(other)
        return batch

    def _place(self, group: _Group) -> tuple[datetime, int, _Group]:
        return group.queue[0].since, next(self._numbers), group

    def _offer(self, group: _Group) -> None:
        """Let a group's head be chosen."""
        heappush(self._oldest, self._place(group))
        heappush(self._lines[group.line], self._place(group))
        self._rank(group.line)

    def _rank(self, line: tuple[int, str]) -> None:
        priority, producer = line
        under_way, since = self._scene.producers[producer], self._lines[line][0][0]
        rank = (-priority, under_way, since, line)
        if self._ranks.get(line) != rank:
            self._ranks[line] = rank
            heappush(self._best, rank)

    def _oldest_group(self) -> _Group | None:
        return self._first(self._oldest)

    def _best_group(self) -> _Group | None:
        while self._best:
            rank = heappop(self._best)
            line = rank[-1]
            if self._ranks.get(line) != rank:
                continue  # it has got another rank since
            del self._ranks[line]
            group = self._first(self._lines[line])
            if group is None:
                continue
            self._rank(line)
            if self._best[0] == self._ranks[line]:
                return group
        return None

    def _first(self, heap: _Heap) -> _Group | None:
        """Return the first group that may go, and forget those before it that may not."""
        while heap:
            since, _, group = heap[0]
            fit = self._fit(group) if _is_head(since, group) else _Fit.NO
            if fit is _Fit.YES:
                return group
            if fit is _Fit.NOT_NOW:
                self._passed_over[group.lane].add(group)
            heappop(heap)
        return None

    def _fit(self, group: _Group) -> _Fit:
        """Whether the group's lane has capacity for its head.

        If a lane's oldest batch is next, no other batch of the lane may pass: otherwise small
        batches would fill every gap, and a large one would never fit.
        """
        load = self._scene.lanes[group.lane]
        if not _oldest_is_next(load.admitted):
            lacks = load.lacks(self._capacity, group.queue[0].tokens)
            return _Fit.YES if lacks is None else _Fit.NO
        heads = self._lanes[group.lane]
        while not _is_head(heads[0][0], heads[0][2]):
            heappop(heads)
        oldest = heads[0][2]
        if load.lacks(self._capacity, oldest.queue[0].tokens) is not None:
            return _Fit.NO
        return _Fit.YES if oldest is group else _Fit.NOT_NOW


def _is_head(since: datetime, group: _Group) -> bool:
    return bool(group.queue) and group.queue[0].since == since


def _oldest_is_next(admitted: int) -> bool:
    return admitted % OLDEST == OLDEST - 1
