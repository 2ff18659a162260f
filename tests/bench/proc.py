"""What /proc says of processes: CPU seconds of whole trees, resident memory over time."""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench.resident import peak_mb, resident_mb
from tests.servers import children

TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for parent in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            found += children(parent)
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Of the trees below these processes, with the children that they have waited for."""
    total = 0
    for root in pids:
        for pid in tree(root):
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                total += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return total / TICKS


@dataclass
class MemoryOverTime:
    """Samples the resident memory of processes until the block is left.

    For each name: the largest process of its tree, in MB, as (seconds from the start, MB).
    """

    roots: Mapping[str, int]
    every: float = 0.2
    points: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    peaks: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        started = time.monotonic()
        while not self._stop.is_set():
            for name, root in self.roots.items():
                self._look(name, root, time.monotonic() - started)
            self._stop.wait(self.every)

    def _look(self, name: str, root: int, at: float) -> None:
        resident = 0.0
        for pid in tree(root):
            with suppress(FileNotFoundError, ProcessLookupError):
                resident = max(resident, resident_mb(pid))
                self.peaks[name] = max(self.peaks[name], peak_mb(pid))
        self.points[name].append((at, resident))
