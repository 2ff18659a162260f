"""Running several processes as one: started in order, kept running, stopped in reverse."""

import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Self

import structlog

from service.cli.run.process import Child, Process, bound, send, spawn, tail
from service.cli.up.errors import StartError

FIRST_BACKOFF = timedelta(seconds=0.5)
LONGEST_BACKOFF = timedelta(seconds=30)
STEADY = timedelta(seconds=60)
"""A process that ran this long counts as healthy: its next failure is a first one again."""

LOOK_AT_LOGS = timedelta(minutes=1)
HURRY = timedelta(seconds=2)
"""How long each process gets to end after a second Ctrl-C; none after a third."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True)
class Step:
    """A command that has to end well before the next part starts."""

    process: Process


@dataclass(frozen=True)
class Siblings:
    """Processes that do not need one another: asked to stop at the same time."""

    processes: tuple[Process, ...]


Part = Process | Siblings | Step


class Supervisor:
    """Runs parts until SIGINT, SIGTERM or SIGHUP.

    What dies is started again, ever more slowly. Should the supervisor itself be killed, the kernel
    ends its processes (Linux; see `shim.py`).
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        on_start: Callable[[str], None] = lambda _: None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_start` is told the name of each process before its first start.

        `on_ready` is called once, when every part is ready.
        """
        self._on_start = on_start
        self._parts = parts
        self._on_ready = on_ready
        self._running: list[_Supervised] = []
        self._stop_order: list[list[_Supervised]] = []
        self._logs_looked_at = time.monotonic()

    def run(self) -> None:
        """Start all, run until a signal asks to stop, stop all. From the main thread.

        Raises StartError, after stopping the others, when a part ends or hangs before it is ready.
        """
        with _Signals() as signals:
            try:
                if self._start(signals):
                    self._on_ready()
                while not signals.received:
                    self._mend()
                    due = [s.due_in for s in self._running if s.due_in is not None]
                    signals.wait(min([*due, LOOK_AT_LOGS.total_seconds()]))
                    self._bound_logs()
            finally:
                for group in reversed(self._stop_order):
                    _stop(group, signals)

    def _bound_logs(self) -> None:
        if time.monotonic() - self._logs_looked_at < LOOK_AT_LOGS.total_seconds():
            return
        self._logs_looked_at = time.monotonic()
        for supervised in self._running:
            supervised.bound_log()

    def _start(self, signals: "_Signals") -> bool:
        """Start the parts one after another; False when a signal came in between."""
        for part in self._parts:
            match part:
                case Step(process):
                    started = self._complete(process, signals)
                case Process():
                    started = self._bring_up((part,), signals)
                case Siblings(processes):
                    started = self._bring_up(processes, signals)
            if not started:
                return False
        return True

    def _bring_up(self, processes: tuple[Process, ...], signals: "_Signals") -> bool:
        group: list[_Supervised] = []
        self._stop_order.append(group)
        for process in processes:
            self._on_start(process.name)
            supervised = _Supervised(process)
            supervised.start()
            group.append(supervised)
            self._running.append(supervised)
            if not self._await(supervised, process, signals):
                return False
        return True

    def _await(self, supervised: "_Supervised", process: Process, signals: "_Signals") -> bool:
        deadline = time.monotonic() + process.start_timeout.total_seconds()
        while not signals.received:
            if process.ready is None or process.ready():
                return True
            if supervised.status is not None:
                raise _failed(process, f"{_ending(supervised.status)} before it was ready")
            if time.monotonic() > deadline:
                raise _failed(process, f"was not ready within {process.start_timeout}")
            self._mend(but=supervised)
            signals.wait(0.05)
        return False

    def _complete(self, process: Process, signals: "_Signals") -> bool:
        self._on_start(process.name)
        supervised = _Supervised(process)
        supervised.start()
        try:
            while not signals.received:
                if supervised.status == 0:
                    return True
                if supervised.status is not None:
                    raise _failed(process, _ending(supervised.status))
                self._mend()
                signals.wait(0.5)
            return False
        finally:
            _stop([supervised], signals)

    def _mend(self, but: "_Supervised | None" = None) -> None:
        for supervised in self._running:
            if supervised is not but:
                supervised.mend()


class _Supervised:
    """One process through all its lives."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._log = _log.bind(process=process.name)
        self._child: Child | None = None
        self._started = 0.0
        self._failures = 0
        self._again = 0.0
        self._asked = 0.0

    @property
    def status(self) -> int | None:
        """Exit status of the present life; None while it runs."""
        return None if self._child is None else self._child.poll()

    @property
    def due_in(self) -> float | None:
        """Seconds until it is to be started again; None while it runs."""
        return None if self._child is not None else max(0.0, self._again - time.monotonic())

    def start(self) -> None:
        """Raises StartError, OSError."""
        self._started = time.monotonic()
        self._child = spawn(self._process)
        self._log.info("process_started", pid=self._child.pid)

    def bound_log(self) -> None:
        """Put a log aside that has grown long. Never fails: the disk may be full."""
        if self._process.log is not None:
            with suppress(OSError):
                bound(self._process.log)

    def mend(self) -> None:
        """See whether it ended, and start it again when that is due."""
        if self._child is not None:
            status = self._child.poll()
            if status is None:
                return
            # What it leaves in its group would be in the way of its next life.
            send(self._child, signal.SIGKILL)
            self._child = None
            self._back_off(_ending(status))
        elif time.monotonic() >= self._again:
            try:
                self.start()
            except (StartError, OSError) as error:
                self._back_off(str(error))

    def _back_off(self, reason: str) -> None:
        steady = time.monotonic() - self._started > STEADY.total_seconds()
        self._failures = 1 if steady else self._failures + 1
        wait = backoff(self._failures)
        self._again = time.monotonic() + wait.total_seconds()
        self._log.warning("process_died", reason=reason, restart_in=wait.total_seconds())

    def ask_to_stop(self) -> None:
        """Ask it to end, kindly."""
        self._asked = time.monotonic()
        if self._child is not None and self._child.poll() is None:
            send(self._child, self._process.stop_signal)

    def has_stopped(self, signals: "_Signals") -> bool:
        """Whether it has ended; when its time is over, it is made to. Its group goes with it."""
        if self._child is None:
            return True
        if self._child.poll() is None:
            if time.monotonic() - self._asked < self._patience(signals).total_seconds():
                return False
            self._log.warning("process_killed", reason="it did not stop in time")
        send(self._child, signal.SIGKILL)
        self._log.info("process_stopped", status=self._child.wait())
        self._child = None
        return True

    def _patience(self, signals: "_Signals") -> timedelta:
        if signals.received > 2:
            return timedelta(0)
        if signals.received == 2:
            return min(HURRY, self._process.stop_timeout)
        return self._process.stop_timeout


class _Signals:
    """Counts the requests to stop, and lets the supervisor sleep until something happens."""

    def __init__(self) -> None:
        self.received = 0
        self._undo = ExitStack()
        self._awake = -1

    def __enter__(self) -> Self:
        self._awake, wake = os.pipe()
        for descriptor in (self._awake, wake):
            os.set_blocking(descriptor, False)
            self._undo.callback(os.close, descriptor)
        before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._undo.callback(signal.set_wakeup_fd, before)
        # A handler of ours, even one that does nothing, is what makes SIGCHLD wake us.
        self._handle(signal.SIGCHLD, lambda _number, _frame: None)
        self._handle(signal.SIGINT, self._count)
        self._handle(signal.SIGTERM, self._count)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
            self._handle(signal.SIGHUP, self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _handle(
        self, number: signal.Signals, handler: Callable[[int, FrameType | None], None]
    ) -> None:
        self._undo.callback(signal.signal, number, signal.signal(number, handler))

    def _count(self, _number: int, _frame: FrameType | None) -> None:
        self.received += 1

    def wait(self, seconds: float | None) -> None:
        """Sleep until a signal (SIGCHLD too) or for this long; None: without an end."""
        if select.select([self._awake], [], [], seconds)[0]:
            os.read(self._awake, 4096)


def _stop(group: Sequence[_Supervised], signals: _Signals) -> None:
    """Stop all of a group at once, and come back when the last has ended."""
    for supervised in group:
        supervised.ask_to_stop()
    left = list(group)
    while left := [supervised for supervised in left if not supervised.has_stopped(signals)]:
        signals.wait(0.1)


def backoff(failures: int) -> timedelta:
    """How long to wait before the start that follows this many failures in a row."""
    doublings = min(failures - 1, 10)
    return min(LONGEST_BACKOFF, FIRST_BACKOFF * (1 << doublings))


def _ending(status: int) -> str:
    if status < 0:
        return f"was ended by signal {-status} ({signal.strsignal(-status)})"
    return f"ended with status {status}"


def _failed(process: Process, what: str) -> StartError:
    shown = tail(process.log)
    where = f"; the end of {process.log}:\n{shown}" if shown else ""
    return StartError(f"{process.name} {what}{where}")
