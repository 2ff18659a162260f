"""All of Haulier's processes against the simulator, as a deployment runs them."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from service.cli.up.ports import free_port
from tests.api import client
from tests.bench.proc import cpu_seconds
from tests.conftest import process_environment
from tests.eventually import eventually
from tests.processes import Processes, Running
from tests.servers import Databases, open_directory, running_postgres, running_valkey
from tests.simulator import KEY, Simulator

AS_SHIPPED = ("LEASE", "TICK", "CREATE_GRACE", "RETRY_BASE", "PROBE", "PACK", "RETRY_PACK")
"""Durations that tests shorten and that stay at their defaults here."""

PARTS = ("api", "worker", "scheduler", "inbox")
LISTED = (("workers", "worker", 2), ("schedulers", "scheduler", 1), ("inboxes", "inbox", 1))
"""How many processes the API shows of a part; a worker is two, for transfers and control calls."""

ENDED = {"completed", "cancelled", "failed", "rejected"}


@dataclass
class Deployment:
    """A running deployment. CPU and memory of a part are those of its whole process tree."""

    home: Path
    environment: dict[str, str]
    simulator: Simulator
    processes: Processes
    parts: dict[str, Running]
    http: httpx.Client
    postgres: int
    """The pid of the server."""
    valkey: int

    @property
    def roots(self) -> dict[str, int]:
        return {name: part.pid for name, part in self.parts.items()}

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, of each part."""
        return {name: cpu_seconds([pid]) for name, pid in self.roots.items()}

    def submit_file(self, path: Path) -> str:
        """The lines of a file as one job, streamed. Gives its id."""
        with path.open("rb") as file:
            answer = self.http.post(
                "/v1/jobs",
                params={"endpoint": "/v1/chat/completions"},
                content=iter(lambda: file.read(1 << 18), b""),
                headers={"Content-Type": "application/x-ndjson"},
                timeout=900,
            )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def completed(self, job_id: str, timeout: float) -> dict[str, Any]:
        """The job once it has ended well."""
        deadline = time.monotonic() + timeout
        while True:
            job: dict[str, Any] = self.http.get(f"/v1/jobs/{job_id}").raise_for_status().json()
            if job["state"] in ENDED:
                assert job["state"] == "completed", job
                return job
            assert time.monotonic() < deadline, f"not within {timeout} s: {job}"
            time.sleep(0.25)

    def download(self, job_id: str) -> tuple[int, int]:
        """Read the results and throw them away. Gives (lines, bytes)."""
        lines = size = 0
        with self.http.stream("GET", f"/v1/jobs/{job_id}/results", timeout=900) as answer:
            answer.raise_for_status()
            for block in answer.iter_raw():
                lines += block.count(b"\n")
                size += len(block)
        return lines, size


@contextmanager
def open_deployment(
    settings: Mapping[str, str] = {},
    *,
    batch_seconds: float = 1.0,
    parts: tuple[str, ...] = PARTS,
) -> Iterator[Deployment]:
    """Everything, up and ready. The servers are as durable as `haulier up` makes them."""
    with ExitStack() as stack:
        home = stack.enter_context(open_directory("bench"))
        for name in ("blobs", "logs", "scratch"):
            (home / name).mkdir()
        postgres = stack.enter_context(running_postgres(home, {}))
        valkey = stack.enter_context(running_valkey(home))
        simulator = Simulator(batch_seconds=batch_seconds, data=home / "simulator")
        stack.enter_context(simulator)
        environment = process_environment(
            Databases(postgres.url).create(), valkey.url, (home / "blobs").as_uri(), home
        )
        for name in AS_SHIPPED:
            del environment[f"HAULIER_{name}_SECONDS"]
        environment |= {
            "HAULIER_POLL_SECONDS": "1",
            "HAULIER_SCRATCH": str(home / "scratch"),
            "TOGETHER_BASE_URL": simulator.url,
            "TOGETHER_API_KEY": KEY,
            **settings,
        }
        processes = Processes(home / "logs", environment)
        stack.callback(processes.kill)  # nothing is to be saved
        port = free_port()
        arguments = {"api": ("api", "--port", str(port))}
        started = {name: processes.haulier(*arguments.get(name, (name,))) for name in parts}
        http = stack.enter_context(client(f"http://127.0.0.1:{port}"))
        deployment = Deployment(
            home,
            environment,
            simulator,
            processes,
            started,
            http,
            postgres=postgres.pid,
            valkey=valkey.pid,
        )
        eventually(lambda: _ready(deployment), 60)
        yield deployment


def _ready(deployment: Deployment) -> bool:
    """Whether the API answers and every other part has a heartbeat."""
    if "api" not in deployment.parts:
        return True
    if not deployment.http.get("/readyz").is_success:
        return False
    shown = deployment.http.get("/v1/status").raise_for_status().json()
    return all(
        len(shown[name]) >= count for name, part, count in LISTED if part in deployment.parts
    )
