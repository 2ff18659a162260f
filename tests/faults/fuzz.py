"""Fuzz: several producers and Together itself say odd things, while another producer works.

    make fuzz MINUTES=5 SEED=1

Exits with 1 if anything was answered with a 5xx, left a traceback, grew, or stopped the other
producer. The same seed sends much the same.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

import httpx

from service.cli.up.ports import free_port
from tests.api import client
from tests.bench.proc import tree
from tests.bench.resident import resident_mb
from tests.conftest import process_environment
from tests.eventually import eventually
from tests.faults.fuzz_producers import Honest, Seen, Target, careless
from tests.faults.fuzz_provider import odd_provider
from tests.processes import Processes, Running
from tests.servers import (
    UNSYNCED,
    Databases,
    open_directory,
    running_postgres,
    running_valkey,
)
from tests.simulator import KEY, Simulator

SPAWN = get_context("spawn")
CARELESS = 3
EVERY = 0.2
"""Seconds between two jobs of the honest producer."""
ALONE = 0.2
"""The share of the time for which the honest producer is alone first."""
GROWTH_MB = 60.0
"""The most by which a process may grow in the second half of the run."""
SETTLING = 60.0
PARTS = ("api", "inbox", "worker", "scheduler", "notifier")
UNEXPECTED = {"stage_broke", "outcome_not_stored", "tick_failed", "inbox_failed"}
TIMES = {
    "HAULIER_LEASE_SECONDS": "4",
    "HAULIER_TICK_SECONDS": "0.25",
    "HAULIER_POLL_SECONDS": "0.3",
    "HAULIER_PROBE_SECONDS": "0.5",
    "HAULIER_PACK_SECONDS": "0.5",
    "HAULIER_SETTLE_PATIENCE_SECONDS": "2",
    "HAULIER_CONCURRENCY": "1",
}


@dataclass
class Found:
    """What a run found: `broken` is what must not be."""

    figures: dict[str, object] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def table(self) -> str:
        rows = [f"{name:<48} {value}" for name, value in self.figures.items()]
        return "\n".join([*rows, *(f"BROKEN {what}" for what in self.broken)])


@dataclass
class Fuzzed:
    """The running parts."""

    home: Path
    url: str
    valkey_url: str
    http: httpx.Client
    parts: dict[str, Running]

    def producer(self, name: str, **fields: object) -> str:
        """Add a producer. Gives its token."""
        answer = self.http.post("/v1/producers", json={"name": name, **fields})
        answer.raise_for_status()
        return str(answer.json()["token"])

    def resident(self) -> dict[str, float]:
        return {name: sum(map(resident_mb, tree(part.pid))) for name, part in self.parts.items()}


@contextmanager
def open_fuzzed(seed: int) -> Iterator[Fuzzed]:
    """Everything, running. The account `default` is at a Together that says odd things."""
    with ExitStack() as stack:
        home = stack.enter_context(open_directory("fuzz"))
        for name in ("blobs", "logs"):
            (home / name).mkdir()
        postgres = stack.enter_context(running_postgres(home, UNSYNCED))
        valkey = stack.enter_context(running_valkey(home))
        simulator = Simulator(batch_seconds=0.5, data=home / "simulator")
        stack.enter_context(simulator)
        odd = stack.enter_context(odd_provider(simulator.url, seed))
        honest = {"honest": {"api_key": f"{KEY}-honest", "base_url": simulator.url}}
        environment = process_environment(
            Databases(postgres.url).create(), valkey.url, (home / "blobs").as_uri(), home
        )
        environment |= {
            **TIMES,
            "TOGETHER_BASE_URL": odd,
            "TOGETHER_API_KEY": KEY,
            "HAULIER_ACCOUNTS": json.dumps(honest),
        }
        processes = Processes(home / "logs", environment)
        stack.callback(processes.kill)
        port = free_port()
        arguments = {"api": ("api", "--port", str(port))}
        parts = {name: processes.haulier(*arguments.get(name, (name,))) for name in PARTS}
        url = f"http://127.0.0.1:{port}"
        http = stack.enter_context(client(url))
        eventually(lambda: _ready(http), 60)
        yield Fuzzed(home, url, valkey.url, http, parts)


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").is_success
    except httpx.TransportError:
        return False


def run(seconds: float, seed: int) -> Found:
    """Send odd things for so long, and look at what that did."""
    found = Found()
    with open_fuzzed(seed) as fuzzed, ExitStack() as stack:
        token = fuzzed.producer("honest", accounts=["honest"])
        mine = stack.enter_context(client(fuzzed.url))
        mine.headers["Authorization"] = f"Bearer {token}"
        alone = _honest(mine, lambda: time.sleep(seconds * ALONE))
        paths = list(fuzzed.http.get("/v1/openapi.json").raise_for_status().json()["paths"])
        targets = [
            Target(fuzzed.url, fuzzed.producer(f"careless-{number}"), fuzzed.valkey_url, paths)
            for number in range(CARELESS)
        ]
        sizes: list[dict[str, float]] = []
        told: Queue[Seen] = SPAWN.Queue()
        odd = SPAWN.Process(target=careless, args=(targets, seed, seconds * (1 - ALONE), told))

        def meanwhile() -> None:
            odd.start()
            for _ in range(2):
                time.sleep(seconds * (1 - ALONE) / 2)
                sizes.append(fuzzed.resident())

        beside = _honest(mine, meanwhile)
        seen = told.get(timeout=120)
        odd.join()
        _check_honest(mine, alone, beside, found)
        _check_growth(sizes, found)
        found.broken += seen.broken[:20]
        found.figures |= dict(sorted(seen.answers.items()))
        for name, part in fuzzed.parts.items():
            if not part.alive:
                found.broken.append(f"{name} has ended: {part.output[-2000:]}")
        _check_logs(fuzzed.home / "logs", found)
    return found


def _honest(http: httpx.Client, meanwhile: Callable[[], None]) -> Honest:
    honest = Honest(http, EVERY)
    honest.start()
    meanwhile()
    honest.ending.set()
    honest.join(60)
    return honest


def _check_honest(http: httpx.Client, alone: Honest, beside: Honest, found: Found) -> None:
    """All its jobs must be served, as if nobody else were there."""
    found.broken += [f"the honest producer got {text}" for text in beside.refused[:5]]
    for name, honest in (("alone", alone), ("beside", beside)):
        found.figures[f"honest submissions {name}"] = len(honest.took)
        cuts = statistics.quantiles(honest.took, n=100)
        found.figures[f"  p50 and p99 in ms {name}"] = (
            f"{cuts[49] * 1000:.0f} and {cuts[98] * 1000:.0f}"
        )
    open_jobs = {*alone.jobs, *beside.jobs}

    def ended() -> bool:
        for job_id in open_jobs:
            job = http.get(f"/v1/jobs/{job_id}").raise_for_status().json()
            if job["state"] == "completed":
                open_jobs.discard(job_id)
                if job["failed"]:
                    found.broken.append(f"a request of the honest producer failed: {job}")
        return not open_jobs

    try:
        eventually(ended, SETTLING)
    except AssertionError:
        found.broken.append(f"{len(open_jobs)} jobs of the honest producer have not ended")


def _check_growth(sizes: list[dict[str, float]], found: Found) -> None:
    half, whole = sizes
    for name, size in whole.items():
        found.figures[f"MB of {name}, half-way and after"] = f"{half[name]:.0f}, {size:.0f}"
        if size > half[name] + GROWTH_MB:
            found.broken.append(f"{name} grew from {half[name]:.0f} to {size:.0f} MB")


def _check_logs(logs: Path, found: Found) -> None:
    for log in sorted(logs.iterdir()):
        for line in log.read_text(errors="replace").splitlines():
            if "Traceback" in line or any(f'"event": "{name}"' in line for name in UNEXPECTED):
                found.broken.append(f"{log.name}: {line[:2000]}")


def main() -> int:
    """The command. 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Send odd things everywhere.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    found = run(arguments.minutes * 60, arguments.seed)
    print(found.table())
    if found.broken:
        print(f"BROKEN. Repeat with SEED={arguments.seed}")
        return 1
    print("Nothing was found.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
