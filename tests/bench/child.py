"""A piece of work in a fresh process of its own, and what it cost there.

As a program: `python -m tests.bench.child MODULE:FUNCTION '{"keyword": …}'`. The module's imports
are not measured, the function is, with all its threads and processes.
"""

import gc
import importlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.bench.resident import peak_mb


@dataclass(frozen=True)
class Cost:
    """`cpu` and `wall` in seconds; `value` is what the function returned."""

    cpu: float
    wall: float
    peak_mb: float
    value: Any = None


def measured(work: str, *, python: str = sys.executable, **arguments: Any) -> Cost:
    """Run MODULE:FUNCTION of this package. Raises AssertionError with what a failed child said.

    `python` may be of another virtual environment, which needs msgspec.
    """
    done = subprocess.run(
        [python, "-m", "tests.bench.child", work, msgspec.json.encode(arguments).decode()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{work} failed:\n{done.stderr}"
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Cost)


def medians(rounds: int, works: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, Cost]:
    """The medians of several rounds in which each work has its turn: noise befalls all alike."""
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (work, arguments) in works.items():
            costs[name].append(measured(work, **arguments))
    return {
        name: Cost(
            statistics.median(cost.cpu for cost in found),
            statistics.median(cost.wall for cost in found),
            statistics.median(cost.peak_mb for cost in found),
            found[-1].value,
        )
        for name, found in costs.items()
    }


def _run(work: str, arguments: dict[str, Any]) -> Cost:
    module, _, name = work.partition(":")
    function = getattr(importlib.import_module(f"tests.bench.{module}"), name)
    gc.freeze()  # as a worker does before it forks
    before, started = _cpu(), time.monotonic()
    value = function(**arguments)
    return Cost(_cpu() - before, time.monotonic() - started, peak_mb(), value)


def _cpu() -> float:
    """Seconds of this process, and of those that it has waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


if __name__ == "__main__":
    print(msgspec.json.encode(_run(sys.argv[1], msgspec.json.decode(sys.argv[2]))).decode())
