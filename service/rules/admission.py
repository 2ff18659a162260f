"""Choose which waiting batches are admitted next. Pure arithmetic.

Higher priority first; within a priority, the producer with the fewest requests under way; of one
producer's, what waits the longest. Every OLDEST-th that is let in is the one that has waited the
longest whatever its priority, so that nothing waits for ever.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
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
    scene = deepcopy(scene)
    lanes, producers = scene.lanes, scene.producers
    queues: dict[tuple[LaneName, int, str], deque[Waiting]] = defaultdict(deque)
    for batch in sorted(waiting, key=lambda batch: batch.since):
        queues[batch.lane, batch.priority, batch.producer].append(batch)
    admitted = sum(load.admitted for load in lanes.values())
    chosen: list[Waiting] = []
    while len(chosen) < limit:
        fit = _fit([queue[0] for queue in queues.values() if queue], lanes, capacity)
        if not fit:
            break
        if _oldest_is_next(admitted):
            best = min(fit, key=lambda batch: batch.since)
        else:
            best = min(fit, key=lambda b: (-b.priority, producers[b.producer], b.since))
        queues[best.lane, best.priority, best.producer].popleft()
        scene.add(best)
        admitted += 1
        chosen.append(best)
    return chosen


def _fit(heads: list[Waiting], lanes: Mapping[LaneName, Load], capacity: Capacity) -> list[Waiting]:
    """Return the batches that their lanes have capacity for.

    If a lane's oldest batch is next, no other batch of the lane may pass: otherwise small batches
    would fill every gap, and a large one would never fit.
    """
    by_lane: dict[LaneName, list[Waiting]] = defaultdict(list)
    for head in heads:
        by_lane[head.lane].append(head)
    fit = []
    for name, found in by_lane.items():
        load = lanes[name]
        may = [min(found, key=lambda b: b.since)] if _oldest_is_next(load.admitted) else found
        fit += [batch for batch in may if load.lacks(capacity, batch.tokens) is None]
    return fit


def _oldest_is_next(admitted: int) -> bool:
    return admitted % OLDEST == OLDEST - 1
