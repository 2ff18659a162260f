"""Everything that runs in a chaos run: servers, proxies, Haulier's processes, the simulator."""

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from service.cli.up.ports import free_port
from tests.conftest import process_environment
from tests.eventually import eventually
from tests.faults.chaos_scenario import bad_day
from tests.faults.proxy import Proxy
from tests.processes import HAULIER, Processes, Running
from tests.servers import (
    UNSYNCED,
    Databases,
    Server,
    children,
    open_directory,
    running_postgres,
    running_valkey,
)
from tests.simulator import KEY, Simulator

CELERY = [
    *(sys.executable, "-m", "celery", "-q", "-A", "workers.app", "worker", "-c", "2"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
]
LEASE = 4.0
TICK = 0.25
TIMES = {
    "HAULIER_LEASE_SECONDS": str(LEASE),
    "HAULIER_TICK_SECONDS": str(TICK),
    "HAULIER_CREATE_GRACE_SECONDS": "1",
    "HAULIER_SETTLE_PATIENCE_SECONDS": "4",
    "HAULIER_POLL_SECONDS": "0.3",
    "HAULIER_PROBE_SECONDS": "0.5",
    "HAULIER_REST_SECONDS": "0.5",
    "HAULIER_RETRY_BASE_SECONDS": "0.2",
    "HAULIER_SHARD_REQUESTS": "25",
    "HAULIER_PACK_SECONDS": "0.7",
    "HAULIER_RETRY_PACK_SECONDS": "1",
    "HAULIER_CONCURRENCY": "1",
}


@dataclass
class Part:
    """One of Haulier's processes, under a name that outlives its restarts."""

    name: str
    argv: list[str]
    running: Running | None = None
    ending: bool = False
    """Whether it was killed or asked to end."""

    @property
    def alive(self) -> bool:
        return self.running is not None and self.running.alive


@dataclass
class Deployment:
    """The parts, and how to break and mend them."""

    home: Path
    postgres: Server
    valkey: Server
    simulator: Simulator
    to_postgres: Proxy
    to_valkey: Proxy
    to_together: Proxy
    database_url: str
    processes: Processes
    api_url: str
    parts: dict[str, Part]
    seed: int
    played: Counter[str] = field(default_factory=Counter)
    _seen_until: float = 0.0

    @property
    def blobs(self) -> Path:
        return self.home / "blobs"

    def start(self, name: str) -> None:
        part = self.parts[name]
        if not part.alive:
            part.running = self.processes.start(part.argv)
            part.ending = False

    def kill(self, name: str) -> None:
        """kill -9 of the part's first process; its children have to find out."""
        part = self.parts[name]
        if part.running is not None:
            part.ending = True
            part.running.kill()

    def terminate(self, name: str) -> None:
        """What a deploy does."""
        part = self.parts[name]
        if part.running is not None:
            part.ending = True
            part.running.signal(signal.SIGTERM)

    def started(self, name: str) -> list[int]:
        """The processes that a part has started, and those that they have."""
        part = self.parts[name]
        if part.running is None or not part.alive:
            return []
        found = []
        with suppress(FileNotFoundError, ProcessLookupError):
            found = children(part.running.pid)
        for child in list(found):
            with suppress(FileNotFoundError, ProcessLookupError):
                found += children(child)
        return found

    def note_what_was_played(self) -> None:
        """Count what the simulator did to calls since the last time. It forgets when it dies."""
        for call in self.simulator.requests():
            if call.at > self._seen_until and call.fault is not None:
                self.played[f"{call.operation} {call.fault}"] += 1
        self._seen_until = time.time()

    def bad_day(self) -> None:
        self.simulator.scenario(**bad_day(self.seed))

    def up(self) -> bool:
        """Whether the API answers that it is ready."""
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.api_url}/readyz", timeout=5, trust_env=False).is_success
        return False


@contextmanager
def open_deployment(seed: int) -> Iterator[Deployment]:
    """All of it, running. To be entered on the main thread: children die with who started them."""
    with ExitStack() as stack:
        home = stack.enter_context(open_directory("chaos"))
        (home / "blobs").mkdir()
        (home / "logs").mkdir()
        postgres = stack.enter_context(running_postgres(home, UNSYNCED))
        valkey = stack.enter_context(running_valkey(home))
        simulator = Simulator(batch_seconds=0.5, data=home / "simulator")
        stack.enter_context(simulator)
        database_url = Databases(postgres.url).create()
        proxies = [
            stack.enter_context(Proxy("127.0.0.1", port))
            for port in (_port(postgres.url), _port(valkey.url), simulator.port)
        ]
        to_postgres, to_valkey, to_together = proxies
        environment = {
            **process_environment(
                _through(to_postgres, database_url),
                _through(to_valkey, valkey.url),
                (home / "blobs").as_uri(),
                home,
            ),
            **TIMES,
            "TOGETHER_BASE_URL": f"http://127.0.0.1:{to_together.port}",
            "TOGETHER_API_KEY": KEY,
        }
        processes = Processes(home / "logs", environment)
        stack.callback(processes.stop)
        api_port = free_port()
        deployment = Deployment(
            home=home,
            postgres=postgres,
            valkey=valkey,
            simulator=simulator,
            to_postgres=to_postgres,
            to_valkey=to_valkey,
            to_together=to_together,
            database_url=database_url,
            processes=processes,
            api_url=f"http://127.0.0.1:{api_port}",
            parts=_parts(api_port),
            seed=seed,
        )
        deployment.bad_day()
        for name in deployment.parts:
            deployment.start(name)
        eventually(deployment.up, 60)
        yield deployment


def _parts(api_port: int) -> dict[str, Part]:
    argv = {
        "worker-1": [*HAULIER, "worker"],
        "worker-2": CELERY,
        "scheduler-1": [*HAULIER, "scheduler"],
        "scheduler-2": [*HAULIER, "scheduler"],
        "api": [*HAULIER, "api", "--port", str(api_port)],
        "inbox": [*HAULIER, "inbox"],
    }
    return {name: Part(name, command) for name, command in argv.items()}


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _through(proxy: Proxy, url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.replace(str(parts.port), str(proxy.port))).geturl()
