"""What a process measures of its own work: how often and how long, kept until it is stored.

The labels of a measure have the values that are named here and no others, so that nothing that
comes from outside can make the metrics grow.
"""

import math
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

from service.rules.states import Stage

OTHER = "other"
"""What a value is counted as that its label does not name."""

QUICK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, math.inf)
"""Up to how many seconds: of calls and transactions."""
SLOW = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0, math.inf)
"""Up to how many seconds: of what waits for others."""


@dataclass(frozen=True, eq=False)
class Measure:
    """Something that is counted, by the values of its labels; a histogram if it has `up_to`."""

    name: str
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    up_to: tuple[float, ...] = ()
    """Upper bounds of the buckets in seconds, the last one infinite."""

    def series(self) -> Iterator[tuple[str, ...]]:
        """Yield all combinations of the labels' values."""
        return product(*self.labels.values())

    def count(self, *values: str, more: int = 1) -> None:
        """Count something that happened, `more` times."""
        _add(self, values, math.inf, more, 0.0)

    def took(self, seconds: float, *values: str) -> None:
        """Count something that took so many seconds."""
        _add(self, values, self.up_to[bisect_left(self.up_to, seconds)], 1, seconds)

    @contextmanager
    def timed(self, *values: str) -> Iterator[None]:
        """Count what happens in a `with` block, and how long that takes, however it ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.took(time.monotonic() - began, *values)


class Key(NamedTuple):
    """A counter or the bucket of a histogram."""

    name: str
    labels: tuple[str, ...]
    up_to: float


@dataclass
class Tally:
    """How often, and the seconds of all together."""

    count: int = 0
    seconds: float = 0.0


_lock = threading.Lock()
_kept: dict[Key, Tally] = {}


def _begin_anew() -> None:
    """In a fork: what was measured before is its parent's, and another thread may hold the lock."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _kept.clear()


os.register_at_fork(after_in_child=_begin_anew)


def _add(measure: Measure, values: tuple[str, ...], up_to: float, more: int, took: float) -> None:
    known = tuple(
        value if value in named else OTHER
        for value, named in zip(values, measure.labels.values(), strict=True)
    )
    with _lock:
        tally = _kept.setdefault(Key(measure.name, known, up_to), Tally())
        tally.count += more
        tally.seconds += took


def take() -> dict[Key, Tally]:
    """Return what was measured since the last call, and keep it no longer."""
    with _lock:
        taken = dict(_kept)
        _kept.clear()
    return taken


def give_back(taken: Mapping[Key, Tally]) -> None:
    """Keep again what could not be stored."""
    with _lock:
        for key, lost in taken.items():
            tally = _kept.setdefault(key, Tally())
            tally.count += lost.count
            tally.seconds += lost.seconds


_OPERATIONS = (
    "upload",
    "put",
    "preprocess",
    "file",
    "content",
    "delete_file",
    "create",
    "batch",
    "batches",
    "cancel",
    OTHER,
)
_RESULTS = ("ok", "limited", "blocked", "refused", "failed", "unreachable")
_BLOBS = ("read", "write", "delete")

TOGETHER_CALLS = Measure(
    "haulier_together_calls",
    "Calls of Together's API, by what came of them",
    {"operation": _OPERATIONS, "result": _RESULTS},
)
TOGETHER_SECONDS = Measure(
    "haulier_together_call_seconds",
    "How long calls of Together's API took, to the beginning of what is streamed",
    {"operation": _OPERATIONS},
    QUICK,
)
BLOB_OPERATIONS = Measure(
    "haulier_blob_operations",
    "Reads, writes and deletions in blob storage, by what came of them",
    {"operation": _BLOBS, "result": ("ok", "missing", "failed")},
)
BLOB_SECONDS = Measure(
    "haulier_blob_operation_seconds",
    "How long blob storage took for one request",
    {"operation": _BLOBS},
    QUICK,
)
STAGE_SECONDS = Measure(
    "haulier_stage_seconds",
    "How long stages worked on one row",
    {"stage": tuple(str(stage) for stage in Stage)},
    (*QUICK[4:-1], 120.0, 600.0, 3600.0, math.inf),
)
OUTCOMES = Measure(
    "haulier_outcomes",
    "Outcomes of stages that were stored, but for polls that found nothing new",
    {
        "outcome": (
            "advance",
            "settle",
            "setapart",
            "cut",
            "split",
            "assembled",
            "wait",
            "retry",
            "hold",
            "pause",
            "fail",
            "park",
        )
    },
)
SETTLE_SECONDS = Measure(
    "haulier_settle_seconds", "How long it took to store what a batch settled", {}, QUICK
)
ADMISSION_SECONDS = Measure(
    "haulier_admission_wait_seconds",
    "How long the longest waiting part of each new batch had waited for it",
    {},
    SLOW,
)
BATCH_SECONDS = Measure(
    "haulier_batch_phase_seconds",
    "How long batches took to be sent, and how long Together worked on them",
    {"phase": ("sending", "together")},
    SLOW,
)
ODDITIES = Measure(
    "haulier_answer_oddities",
    "Lines of Together's answers that fit nothing and were kept aside, and lines that were missing",
    {"kind": ("unknown", "duplicate", "unreadable", "missing")},
)
NOTICES = Measure(
    "haulier_notice_tries",
    "Tries to send a notice, by what came of them",
    {"result": ("delivered", "failed")},
)
REDIS_ERRORS = Measure(
    "haulier_redis_errors",
    "Failures of Redis that a process met with",
    {"kind": ("worker_child", "scheduler", "inbox", "notifier")},
)
STARTS = Measure(
    "haulier_process_starts",
    "Processes that began; a worker's children count apart",
    {"kind": ("api", "worker", "worker_child", "scheduler", "inbox", "notifier")},
)

MEASURES = (
    TOGETHER_CALLS,
    TOGETHER_SECONDS,
    BLOB_OPERATIONS,
    BLOB_SECONDS,
    STAGE_SECONDS,
    OUTCOMES,
    SETTLE_SECONDS,
    ADMISSION_SECONDS,
    BATCH_SECONDS,
    ODDITIES,
    NOTICES,
    REDIS_ERRORS,
    STARTS,
)
