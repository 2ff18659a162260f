"""The Haulier of a demo: `haulier up --simulate` in a home of its own."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from haulier_client import HaulierError

from service.cli.place import Place, variables_in
from service.cli.screen import Screen
from tests.eventually import eventually
from tests.processes import Processes, Running
from tests.servers import open_directory
from tests.simulator import Simulator

SHARD_REQUESTS = 1000
SETTINGS = {
    "HAULIER_SHARD_REQUESTS": str(SHARD_REQUESTS),
    "HAULIER_POLL_SECONDS": "0.5",
    "HAULIER_TICK_SECONDS": "0.2",
    "HAULIER_RETRY_BASE_SECONDS": "0.2",
    "HAULIER_CREATE_GRACE_SECONDS": "2",
    "HAULIER_SETTLE_PATIENCE_SECONDS": "4",
    "PYTHONUNBUFFERED": "1",
}
OTHERS = ("HAULIER_", "TOGETHER_", "DATABASE_URL", "REDIS_URL")
"""Settings of whoever runs this: the demo is to stand on nothing but itself."""


@dataclass(frozen=True)
class Instance:
    place: Place
    simulator: Simulator
    started: float
    """By the monotonic clock."""


@contextmanager
def running(screen: Screen, *, keep: bool, **more: str) -> Iterator[Instance]:
    """Bring everything up, and end it. `keep` leaves the data and logs where they are."""
    with _home(keep) as home:
        started = time.monotonic()
        environment = {k: v for k, v in os.environ.items() if not k.startswith(OTHERS)}
        processes = Processes(
            home, {**environment, **SETTINGS, **more, "HAULIER_HOME": str(home / "data")}
        )
        try:
            screen.line("Starting Postgres, Valkey, a simulated Together, and Haulier's processes")
            up = processes.haulier("up", "--simulate", "--port", "0")
            eventually(lambda: _is_up(up) or not up.alive, timeout=90)
            assert up.alive, "`haulier up` ended"
            left = variables_in(home / "data" / "env")
            screen.line(f"Haulier is up after {time.monotonic() - started:.1f} s")
            yield Instance(
                Place(left["HAULIER_URL"], left["HAULIER_TOKEN"], "haulier up"),
                Simulator(port=_simulator_port(up), data=home),
                started,
            )
        except (AssertionError, HaulierError):
            sys.stderr.write(f"\n{processes.tails()}\n")
            raise
        finally:
            processes.stop()
        if keep:
            screen.line(f"The instance's data stay in {home}")


@contextmanager
def _home(keep: bool) -> Iterator[Path]:
    if keep:
        home = Path(tempfile.mkdtemp(prefix="haulier-demo-"))
        home.chmod(0o711)  # root's Postgres runs as another user
        yield home
    else:
        with open_directory("demo") as home:
            yield home


def _is_up(up: Running) -> bool:
    return "Haulier is up" in up.output


def _simulator_port(up: Running) -> int:
    line = next(line for line in up.output.splitlines() if line.startswith("Together is simulated"))
    return int(line.rpartition(":")[2])
