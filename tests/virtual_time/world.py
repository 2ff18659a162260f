"""A whole Haulier, `haulier up --simulate`, all processes of which live by one virtual clock."""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psycopg
import redis

from service.cli.place import variables_in
from tests.eventually import eventually
from tests.processes import Processes, Running
from tests.servers import children
from tests.simulator import Simulator
from tests.virtual_time.clock import VirtualClock

NOT_OURS = ("HAULIER_", "TOGETHER_", "DATABASE_URL", "REDIS_URL")
"""Settings of whoever runs this: the world is to stand on nothing but itself."""
ACCOUNTS = ("research",)
"""Beside `default`. Each is an account of its own at the simulator."""
PRICES = {
    "meta-llama/Llama-3.3-70B-Instruct-Turbo": (0.88, 0.88),
    "deepseek-ai/DeepSeek-V3": (1.25, 1.25),
    "Qwen/Qwen2.5-72B-Instruct-Turbo": (1.2, 1.2),
    "openai/gpt-oss-20b": (0.05, 0.2),
}
HURRY = {
    # Real pauses are short, so that a jump of the clock is seen soon...
    "HAULIER_TICK_SECONDS": "0.1",
    "HAULIER_POLL_SECONDS": "0.5",
    "HAULIER_PROBE_SECONDS": "0.2",
    # ...and virtual ones are as long as in production.
    "HAULIER_SLOWEST_POLL_SECONDS": "1200",
    "HAULIER_RETRY_BASE_SECONDS": "30",
}
"""For a clock that jumps."""
SETTINGS = {
    "HAULIER_WEBHOOK_ALLOW_PRIVATE": "true",
    "HAULIER_ACCOUNTS": json.dumps({name: {"api_key": "of-the-simulator"} for name in ACCOUNTS}),
    "HAULIER_PRICES": json.dumps(
        {
            model: [{"from": "2020-01-01", "input": str(paid), "output": str(got)}]
            for model, (paid, got) in PRICES.items()
        }
    ),
    "HAULIER_LOG_FORMAT": "json",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class World:
    """What runs, and how to get at it."""

    home: Path
    clock: VirtualClock | None
    up: Running
    url: str
    """The API's."""
    token: str
    """The admin token."""
    database_url: str
    redis_url: str
    simulator: Simulator
    db: psycopg.Connection[tuple[object, ...]]
    broker: redis.Redis

    def now(self) -> float:
        """The time of this world, in Unix seconds."""
        return time.time() if self.clock is None else self.clock.time()

    @property
    def data(self) -> Path:
        """The home of `haulier up`."""
        return self.home / "data"

    def http(self, token: str | None = None) -> httpx.Client:
        """A client of the API, with the admin token unless another one is given."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx.Client(
            base_url=self.url, headers=headers, timeout=60, trust_env=False, verify=False
        )

    def processes(self) -> dict[str, int]:
        """The pids of what `haulier up` runs, by name."""
        found = {}
        for pid in children(self.up.pid):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if "-m" not in words:
                found[Path(words[0]).name] = pid
                continue
            module, name, *_ = words[words.index("-m") + 1 :]
            # `haulier scheduler` becomes `workers.scheduler`.
            found[name if module == "service.cli.main" else module.rpartition(".")[2]] = pid
        return found


@contextmanager
def open_world(
    home: Path,
    clock: VirtualClock | None,
    *,
    batch_seconds: float,
    port: int = 0,
    settings: Mapping[str, str] | None = None,
) -> Iterator[World]:
    """Start everything in `home`, or start it again, and end it. On the main thread only.

    Without a clock, time is the true one.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(NOT_OURS)}
    environment |= SETTINGS
    if clock is not None:
        environment |= {**HURRY, **clock.environment}
    environment |= settings or {}
    logs = Path(tempfile.mkdtemp(prefix="logs-", dir=home))  # one for each start
    processes = Processes(logs, {**environment, "HAULIER_HOME": str(home / "data")})
    try:
        arguments = ("--simulate", "--port", str(port), "--batch-seconds", str(batch_seconds))
        up = processes.haulier("up", *arguments)
        eventually(lambda: "Haulier is up" in up.output or not up.alive, 120)
        assert up.alive, f"`haulier up` ended:\n{processes.tails()}"
        left = variables_in(home / "data" / "env")
        simulator = Simulator(port=_simulator_port(up), data=home)
        with (
            closing(simulator),
            psycopg.connect(left["DATABASE_URL"], autocommit=True) as db,
            redis.Redis.from_url(left["REDIS_URL"]) as broker,
        ):
            yield World(
                home=home,
                clock=clock,
                up=up,
                url=left["HAULIER_URL"],
                token=left["HAULIER_TOKEN"],
                database_url=left["DATABASE_URL"],
                redis_url=left["REDIS_URL"],
                simulator=simulator,
                db=db,
                broker=broker,
            )
    finally:
        processes.stop()


def _simulator_port(up: Running) -> int:
    line = next(line for line in up.output.splitlines() if line.startswith("Together is simulated"))
    return int(line.rpartition(":")[2])


class BusyError(Exception):
    """Work went on for too long. Says what."""


_BUSY = """
SELECT 'job ' || id || ' is ' || state || ', leased' FROM haulier.jobs WHERE lease IS NOT NULL
UNION ALL
SELECT 'batch ' || id || ' is ' || state || ', leased' FROM haulier.batches WHERE lease IS NOT NULL
UNION ALL
SELECT 'notice ' || id || ' is being sent' FROM haulier.deliveries
WHERE lease IS NOT NULL AND leased_until > now()
LIMIT 5
"""
_SENT = """
SELECT 'batch ' || id || ' is ' || state || ', sent' FROM haulier.batches
WHERE dispatched_at > now() - interval '1 minute' AND lease IS NULL AND parked_at IS NULL
AND state IN ('queued', 'uploaded', 'created', 'ended')
UNION ALL
SELECT 'job ' || id || ' is ' || state || ', sent' FROM haulier.jobs
WHERE dispatched_at > now() - interval '1 minute' AND lease IS NULL AND parked_at IS NULL
AND state IN ('accepted', 'running')
LIMIT 5
"""
_NEXT = """
SELECT min(extract(epoch FROM not_before)) FROM haulier.batches
WHERE parked_at IS NULL AND state IN ('queued', 'uploaded', 'created', 'ended')
AND not_before > now()
"""
QUEUES = ("haulier.transfer", "haulier.control")
TAKING = 5.0
"""Seconds, by the true clock, in which a worker takes what was sent to it, or never will: the
account may be paused since, and the worker may be starting. A message is not a lease."""
PATIENCE = 120.0
"""Seconds, by the true clock, in which everything that is due must have been done."""


@dataclass
class Traveller:
    """Moves the clock of a world, never while anything is leased or under way in a queue."""

    world: World
    shortest: timedelta
    """The shortest jump, so that a poll here and there does not slow the whole down."""
    clock: VirtualClock
    longest: timedelta = timedelta(minutes=50)
    """Below the hour after which a chore that nobody has asked for begins its period anew."""
    jumps: int = 0

    def to(self, instant: float) -> None:
        """Bring the world to an instant (virtual Unix seconds), step by step.

        Work that is due then may still go on.
        """
        while (left := instant - self.clock.time()) > 0:
            self.settle()
            self.clock.jump(timedelta(seconds=min(left, self._step())))
            self.jumps += 1

    def settle(self) -> None:
        """Wait until a tick has seen the present time and all that it sent is done."""
        now, began = self.clock.time(), time.monotonic()
        deadline = began + PATIENCE
        quiet = 0
        while quiet < 2:
            what = self._unfinished(now)
            if not what and time.monotonic() < began + TAKING:
                what = self._sent()
            quiet = 0 if what else quiet + 1
            if time.monotonic() > deadline:
                raise BusyError(f"still not done after {PATIENCE:.0f} s: {what}")
            time.sleep(0.02)

    def _step(self) -> float:
        row = self.world.db.execute(_NEXT).fetchone()
        longest = self.longest.total_seconds()
        if row is None or row[0] is None:
            return longest
        wait = float(str(row[0])) - self.clock.time()
        return min(max(wait, self.shortest.total_seconds()), longest)

    def _unfinished(self, now: float) -> list[str]:
        db, broker = self.world.db, self.world.broker
        looked = db.execute(
            "SELECT extract(epoch FROM seen_at) FROM haulier.chores WHERE name = 'sweep_blobs'"
        ).fetchone()
        if looked is None or float(str(looked[0])) < now:
            return ["the scheduler has not looked since the last jump"]
        if broker.llen("haulier.submit"):
            return ["submissions wait for the inbox"]
        return self._rows(_BUSY)

    def _sent(self) -> list[str]:
        held = [f"messages wait in {name}" for name in QUEUES if self.world.broker.llen(name)]
        return held or self._rows(_SENT)

    def _rows(self, query: str) -> list[str]:
        return [str(row[0]) for row in self.world.db.execute(query.encode())]


def aged(blobs: Path, clock: VirtualClock, *, since: float) -> float:
    """Give files that were written after `since` (true time) the virtual time as theirs.

    Files get the kernel's time, which nobody moves. Returns the `since` of the next call.
    """
    began = time.time()
    virtual = clock.time()
    for folder, _, names in os.walk(blobs):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118  there are many
            try:
                if os.stat(path).st_mtime >= since:  # noqa: PTH116
                    os.utime(path, (virtual, virtual))
            except FileNotFoundError:
                continue
    return began
