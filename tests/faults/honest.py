"""The service, with a producer that does its ordinary work while others do something else."""

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from service.cli.up.ports import free_port
from tests.api import chat, client
from tests.bench.proc import tree
from tests.bench.resident import resident_mb
from tests.conftest import process_environment
from tests.eventually import eventually
from tests.processes import Processes, Running
from tests.servers import (
    UNSYNCED,
    Databases,
    open_directory,
    running_postgres,
    running_valkey,
)
from tests.simulator import KEY, Simulator

EVERY = 0.2
"""Seconds between two jobs of the honest producer."""
SETTLING = 60.0
GROWTH_MB = 60.0
"""The most by which a process may grow in the second half of a run."""
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
    slower: dict[str, float] = field(default_factory=dict)
    """How many times as long the honest producer's submissions took as without the others."""

    def table(self) -> str:
        rows = [f"{name:<48} {value}" for name, value in self.figures.items()]
        return "\n".join([*rows, *(f"BROKEN {what}" for what in self.broken)])


@dataclass
class Service:
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
def open_service(
    odd_provider: Callable[[str], AbstractContextManager[str]] | None = None,
    settings: Mapping[str, str] = {},
) -> Iterator[Service]:
    """Everything, running. Only the account `default` is at the `odd_provider`."""
    with ExitStack() as stack:
        home = stack.enter_context(open_directory("service"))
        for name in ("blobs", "logs"):
            (home / name).mkdir()
        postgres = stack.enter_context(running_postgres(home, UNSYNCED))
        valkey = stack.enter_context(running_valkey(home))
        simulator = Simulator(batch_seconds=0.5, data=home / "simulator")
        stack.enter_context(simulator)
        odd = simulator.url
        if odd_provider is not None:
            odd = stack.enter_context(odd_provider(simulator.url))
        honest = {"honest": {"api_key": f"{KEY}-honest", "base_url": simulator.url}}
        environment = process_environment(
            Databases(postgres.url).create(), valkey.url, (home / "blobs").as_uri(), home
        )
        environment |= {
            **TIMES,
            "TOGETHER_BASE_URL": odd,
            "TOGETHER_API_KEY": KEY,
            "HAULIER_ACCOUNTS": json.dumps(honest),
            **settings,
        }
        processes = Processes(home / "logs", environment, behind=set(PARTS) - {"api"})
        stack.callback(processes.kill)
        port = free_port()
        arguments = {"api": ("api", "--port", str(port))}
        parts = {name: processes.haulier(*arguments.get(name, (name,))) for name in PARTS}
        url = f"http://127.0.0.1:{port}"
        http = stack.enter_context(client(url))
        eventually(lambda: _ready(http), 60)
        # They start behind the API. What is still starting would look as if it grew.
        eventually(lambda: _all_there(http), 60)
        yield Service(home, url, valkey.url, http, parts)


def _all_there(http: httpx.Client) -> bool:
    status = http.get("/v1/status").json()
    return all(status[kind] for kind in ("workers", "schedulers", "inboxes", "notifiers"))


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").is_success
    except httpx.TransportError:
        return False


class Honest(threading.Thread):
    """A producer that submits a small job again and again, and notes how long that took."""

    def __init__(self, http: httpx.Client, every: float) -> None:
        super().__init__(name="honest", daemon=True)
        self._http = http
        self._every = every
        self.took: list[float] = []
        self.jobs: list[str] = []
        self.refused: list[str] = []
        self.ending = threading.Event()

    def percentile(self, percent: int) -> float:
        """Of the seconds that its submissions took."""
        return statistics.quantiles(self.took, n=100)[percent - 1]

    def run(self) -> None:
        while not self.ending.wait(self._every):
            began = time.monotonic()
            try:
                answer = self._http.post("/v1/jobs", json=chat("a", "b", account="honest"))
            except httpx.HTTPError as error:
                self.refused.append(f"{type(error).__name__}: {error}")
                continue
            if answer.status_code == 201:
                self.took.append(time.monotonic() - began)
                self.jobs.append(answer.json()["id"])
            else:
                self.refused.append(f"{answer.status_code}: {answer.text[:300]}")


def at_work(http: httpx.Client, meanwhile: Callable[[], None]) -> Honest:
    """Let the honest producer work for as long as `meanwhile` takes."""
    honest = Honest(http, EVERY)
    honest.start()
    meanwhile()
    honest.ending.set()
    honest.join(60)
    return honest


def check_honest(http: httpx.Client, alone: Honest, beside: Honest, found: Found) -> None:
    """All its jobs must be served, as if nobody else were there."""
    found.broken += [f"the honest producer got {text}" for text in beside.refused[:5]]
    for name, honest in (("alone", alone), ("beside", beside)):
        found.figures[f"honest submissions {name}"] = len(honest.took)
        found.figures[f"  p50 and p99 in ms {name}"] = (
            f"{honest.percentile(50) * 1000:.0f} and {honest.percentile(99) * 1000:.0f}"
        )
    still_open = [*alone.jobs, *beside.jobs]

    def ended() -> bool:
        shown = [http.get(f"/v1/jobs/{job_id}").raise_for_status().json() for job_id in still_open]
        failed = [job for job in shown if job["failed"]]
        found.broken += [f"a request of the honest producer failed: {job}" for job in failed]
        still_open[:] = [job["id"] for job in shown if job["state"] != "completed"]
        return not still_open

    try:
        eventually(ended, SETTLING)
    except AssertionError:
        found.broken.append(f"{len(still_open)} jobs of the honest producer have not ended")


def check_growth(sizes: list[dict[str, float]], found: Found) -> None:
    half, whole = sizes
    for name, size in whole.items():
        found.figures[f"MB of {name}, half-way and after"] = f"{half[name]:.0f}, {size:.0f}"
        if size > half[name] + GROWTH_MB:
            found.broken.append(f"{name} grew from {half[name]:.0f} to {size:.0f} MB")


def check_logs(logs: Path, found: Found) -> None:
    for log in sorted(logs.iterdir()):
        for line in log.read_text(errors="replace").splitlines():
            if "Traceback" in line or any(f'"event": "{name}"' in line for name in UNEXPECTED):
                found.broken.append(f"{log.name}: {line[:2000]}")
