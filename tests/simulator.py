"""A Together for tests: the simulator as a real process, and a typed hold on its controls.

    def test_something(simulator: Simulator) -> None:
        simulator.url                           # http://127.0.0.1:PORT, for TOGETHER_BASE_URL
        simulator.hold("create", after_commit=True)
        ...start a worker...
        simulator.wait_held("create")           # raises TimeoutError after `timeout` seconds
        ...kill it...
        simulator.release()                     # or release("create", answered=False): drop it
        assert simulator.batches_created == 1

The fixture `simulator` (tests/conftest.py registers this module as a plugin) is one process per
test session, reset before each test, with batches that take 0.1 s. A test that wants its own
makes one: `with Simulator(batch_seconds=5) as mine:`.

Lifecycle   start() stop() kill() — start again after either: same port, same data, state intact
            reset() — forget everything, back to the scenario of the start
Faults      fault(operation, kind, **fields) — kind: "lost" "status" "slow" "cut" "hold"; fields as
            in docs/simulator.md (times, after, probability, target, after_commit, status, body, …)
            hold(operation, after_commit=False, **fields) · clear_faults()
            held() -> list[HeldCall] · wait_held(operation, count=1, timeout=10) -> list[HeldCall]
            release(operation=None, answered=True) -> how many
Outages     outage("lines" | "batches" | "creates", **fields)
Rules       line_rule(effect, **fields) · batch_rule(**fields) · rule(lines=[…], batches=[…])
            switch(**switches) · keys({key: 401}) · scenario(switches=…, lines=…, …): replaces all
Books       books(lines=True) -> Books: .totals.batches_created/.lines_billed/.duplicate_successes/…
            account(key) -> AccountBook: .batches .batches_by_input_file .lines[custom_id].executed
            batches_created · billed(custom_id, key=…) · executed(custom_id, key=…)
Log         requests(operation=None) -> list[LoggedCall] · counts() -> {operation: how often}

PYTEST_DONT_REWRITE, so that other plugins may import this before it is registered as one.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import pytest

from service.simulator.books import AccountBook, Books, LineBook
from service.simulator.calls import LoggedCall
from service.simulator.faults import HeldCall
from service.simulator.scenario import Scenario
from service.simulator.wire import account_of

KEY = "test-key"
START_SECONDS = 20.0
STOP_SECONDS = 10.0
NO_LINE = LineBook(executed=0, succeeded=0, failed=0)


class Simulator:
    """One simulator process. See the module's docstring for what it can do."""

    def __init__(
        self,
        *,
        batch_seconds: float = 0.1,
        scenario: Path | None = None,
        data: Path | None = None,
        port: int = 0,
    ) -> None:
        """Not started yet. Without `data` it lives in a directory of its own until `close`."""
        self._batch_seconds = batch_seconds
        self._scenario = scenario
        self._own_data = data is None
        self.data = data or Path(tempfile.mkdtemp(prefix="simulator-test-"))
        self.port = port
        self._process: subprocess.Popen[str] | None = None
        self._control = httpx.Client(timeout=30, verify=False)

    @property
    def url(self) -> str:
        """What goes into TOGETHER_BASE_URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of its process, which runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the process and wait until it is ready."""
        command = [sys.executable, "-m", "service.simulator", "--port", str(self.port)]
        command += ["--batch-seconds", str(self._batch_seconds), "--data", str(self.data)]
        if self._scenario is not None:
            command += ["--scenario", str(self._scenario)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(_ready_line(self._process).rstrip().rpartition(":")[2])
        return self

    def stop(self) -> int:
        """End it with SIGTERM. Returns its exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop it, and remove its data if nobody else named the place."""
        if self.running:
            self.stop()
        self._control.close()
        if self._own_data:
            shutil.rmtree(self.data, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def reset(self) -> None:
        """Forget everything that happened and was asked for."""
        self._call("POST", "reset")

    # What shall go wrong

    def fault(self, operation: str, kind: str, **fields: Any) -> None:
        """Queue a fault for an operation ("*": any)."""
        self._call("POST", "faults", {"operation": operation, "fault": kind, **fields})

    def hold(self, operation: str, *, after_commit: bool = False, **fields: Any) -> None:
        """Make the next call of an operation wait for `release`."""
        self.fault(operation, "hold", after_commit=after_commit, **fields)

    def clear_faults(self) -> None:
        """Drop all queued faults."""
        self._call("DELETE", "faults")

    def held(self) -> list[HeldCall]:
        """The calls that wait."""
        return msgspec.json.decode(self._call("GET", "held"), type=list[HeldCall])

    def wait_held(self, operation: str, *, count: int = 1, timeout: float = 10.0) -> list[HeldCall]:
        """Wait until so many calls of an operation are held."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            waiting = [call for call in self.held() if call.operation == operation]
            if len(waiting) >= count:
                return waiting
            time.sleep(0.01)
        raise TimeoutError(f"no {operation} was held within {timeout} s; held: {self.held()}")

    def release(self, operation: str | None = None, *, answered: bool = True) -> int:
        """Let held calls go on; with `answered` False they end without an answer."""
        answer = self._call("POST", "release", {"operation": operation, "answered": answered})
        return int(msgspec.json.decode(answer)["released"])

    def line_rule(self, effect: str, **fields: Any) -> None:
        """Append a rule for input lines."""
        self.rule(lines=[{"effect": effect, **fields}])

    def batch_rule(self, **fields: Any) -> None:
        """Append a rule for batches."""
        self.rule(batches=[fields])

    def rule(
        self,
        *,
        lines: Sequence[Mapping[str, Any]] = (),
        batches: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Append rules."""
        self._call("POST", "rules", {"lines": lines, "batches": batches})

    def outage(self, kind: str, **fields: Any) -> None:
        """Declare an outage of lines, batches or creates; see `outages` in docs/simulator.md."""
        self._call("POST", "rules", {"outages": [{"kind": kind, **fields}]})

    def scenario(self, **parts: Any) -> Scenario:
        """Replace the whole scenario."""
        return msgspec.json.decode(self._call("PUT", "scenario", parts), type=Scenario)

    def switch(self, **switches: Any) -> None:
        """Turn some switches; queued faults are kept."""
        self._call("PATCH", "scenario", {"switches": switches})

    def keys(self, refused: Mapping[str, int]) -> None:
        """Declare API keys bad (401), out of credit (402) or forbidden (403)."""
        self._call("PATCH", "scenario", {"keys": refused})

    # What happened

    def books(self, *, lines: bool = True) -> Books:
        """The books; without `lines` they stay small."""
        return msgspec.json.decode(
            self._call("GET", "books", query={"lines": str(lines).lower()}), type=Books
        )

    def account(self, key: str = KEY) -> AccountBook:
        """One account's books; empty ones if it did nothing."""
        nothing = AccountBook(batches=[], batches_by_input_file={}, lines={})
        return self.books().accounts.get(account_of(key), nothing)

    @property
    def batches_created(self) -> int:
        """Over all accounts."""
        return self.books(lines=False).totals.batches_created

    def executed(self, custom_id: str, *, key: str = KEY) -> int:
        """How often a custom_id was executed."""
        return self.account(key).lines.get(custom_id, NO_LINE).executed

    def billed(self, custom_id: str, *, key: str = KEY) -> int:
        """How often a custom_id was paid for."""
        return self.account(key).lines.get(custom_id, NO_LINE).succeeded

    def requests(self, operation: str | None = None) -> list[LoggedCall]:
        """The last API calls, oldest first."""
        query = {} if operation is None else {"operation": operation}
        log = self._call("GET", "requests", query=query)
        return msgspec.json.decode(log, type=_Log).calls

    def counts(self) -> dict[str, int]:
        """How often each operation was called."""
        return msgspec.json.decode(self._call("GET", "requests"), type=_Log).counts

    def _call(
        self, method: str, name: str, body: object = None, query: Mapping[str, str] | None = None
    ) -> bytes:
        response = self._control.request(
            method,
            f"{self.url}/_control/{name}",
            content=None if body is None else msgspec.json.encode(body),
            params=query,
        )
        if response.is_error:
            raise AssertionError(f"{method} {name}: {response.status_code} {response.text}")
        return response.content

    def _end(self, sent: signal.Signals) -> int:
        process = self._process
        assert process is not None, "the simulator was not started"
        process.send_signal(sent)
        try:
            status = process.wait(STOP_SECONDS)
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()
        self._process = None
        return status


class _Log(msgspec.Struct, frozen=True):
    counts: dict[str, int]
    calls: list[LoggedCall]


def _ready_line(process: "subprocess.Popen[str]") -> str:
    """The line a simulator prints when it listens."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    line, deadline = "", time.monotonic() + START_SECONDS
    while not line.endswith("\n"):
        if process.poll() is not None:
            raise AssertionError(f"the simulator ended with status {process.returncode}")
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError(f"the simulator was not ready within {START_SECONDS} s")
        line += process.stdout.readline()
        time.sleep(0.01)
    return line


@pytest.fixture(scope="session")
def _simulator_process() -> Iterator[Simulator]:
    process = Simulator()
    yield process
    process.close()


@pytest.fixture
def simulator(_simulator_process: Simulator) -> Simulator:
    """A simulator that knows of nothing yet."""
    if not _simulator_process.running:
        _simulator_process.start()
    _simulator_process.reset()
    return _simulator_process
