"""What the chaos run did: what was submitted, what was broken. The auditor starts from this."""

import time
from collections import Counter
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal
from uuid import UUID

Way = Literal["http", "queue"]


@dataclass(frozen=True)
class Asked:
    """One submission. `custom_ids` in input order."""

    way: Way
    key: str
    """The idempotency key of one over HTTP, the task id of one over the queue."""
    custom_ids: tuple[str, ...]


@dataclass(frozen=True)
class Broken:
    """A fault of the plan. Instants in Unix seconds; mended when it was over."""

    kind: str
    at: float
    mended_at: float


@dataclass
class Ledger:
    """Filled by several threads."""

    asked: list[Asked] = field(default_factory=list)
    pruned: list[Asked] = field(default_factory=list)
    """Those before, whose jobs may be gone because their time is over."""
    accepted: dict[str, UUID] = field(default_factory=dict)
    """The job that stood in the first answer to each key."""
    contradicted: list[str] = field(default_factory=list)
    """Answers that cannot be: a key with two jobs, or one that was new twice."""
    broken: list[Broken] = field(default_factory=list)
    played: Counter[str] = field(default_factory=Counter)
    """What the simulator did to calls, by operation and fault."""
    ended: Counter[str] = field(default_factory=Counter)
    """Processes that ended though nobody had killed them."""
    repeats: int = 0
    cancels: int = 0
    retries: int = 0
    held: int = 0
    """Idempotency keys that another transaction held for a while."""
    poisoned: int = 0
    """Messages that are none."""
    _lock: Lock = field(default_factory=Lock)

    def ask(self, asked: Asked) -> None:
        with self._lock:
            self.asked.append(asked)

    def accept(self, key: str, job_id: UUID, *, new: bool) -> None:
        """Note an answer, and whether it fits those before it."""
        with self._lock:
            known = self.accepted.setdefault(key, job_id)
            if known != job_id:
                self.contradicted.append(f"{key} is job {known} and job {job_id}")
            # New, although an answer was seen before; the other way round an answer was lost.
            if new and key in self._seen:
                self.contradicted.append(f"{key} was new twice")
            self._seen.add(key)

    def breaks(self, kind: str, at: float) -> None:
        """A fault that began at `at` is over now."""
        with self._lock:
            self.broken.append(Broken(kind, at, time.time()))

    def __post_init__(self) -> None:
        self._seen: set[str] = set()
