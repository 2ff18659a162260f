"""A program to run as a child that never outlives its parent."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from service.cli.up.errors import StartError

LOG_BYTES = 10_000_000
"""A child's own log file larger than this is put aside (one generation)."""

Child = subprocess.Popen[bytes]

_SHIM = Path(__file__).with_name("shim.py")


@dataclass(frozen=True, kw_only=True)
class Process:
    """What to run, how to see that it is ready, and how to end it."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] | None = None
    """The whole environment; None: the parent's."""
    stdin: bytes | None = None
    """At most a pipe's worth (64 KiB), written at the start."""
    user: str | None = None
    """Whom to run it as; None: as the parent."""
    directory: Path | None = None
    log: Path | None = None
    """Where its output goes; None: where the parent's goes."""
    before: Callable[[], None] | None = None
    """Called ahead of every start."""
    ready: Callable[[], bool] | None = None
    """Quick, never raises. None: ready as soon as it runs."""
    start_timeout: timedelta = timedelta(seconds=60)
    """How long it may take to become ready."""
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout: timedelta = timedelta(seconds=10)
    """How long it may take to end after `stop_signal`, before SIGKILL."""
    death_signal: signal.Signals = signal.SIGKILL
    """What the kernel sends it when the parent dies (Linux)."""
    nice: int = 0
    """How far it steps back where processors are scarce: 0 to 19."""


def spawn(process: Process) -> Child:
    """Start `process` in a session of its own, where a terminal's Ctrl-C does not reach it.

    Call it from a thread that lives as long as the child should: the kernel ties the death of the
    parent to the thread that forked. Raises what `before` raises, and StartError for a program
    that is not there.
    """
    if process.before is not None:
        process.before()
    program = shutil.which(process.argv[0])
    if program is None:
        raise StartError(f"{process.argv[0]}: there is no such program")
    shim = [
        sys.executable,
        "-I",
        "-S",
        str(_SHIM),
        str(os.getpid()),
        str(int(process.death_signal)),
        str(process.nice),
    ]
    output = None if process.log is None else os.open(*_opened(process.log), mode=0o600)
    try:
        child = subprocess.Popen(
            [*shim, process.user or "", str(process.directory or ""), program, *process.argv[1:]],
            env=process.env,
            stdin=subprocess.DEVNULL if process.stdin is None else subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    finally:
        if output is not None:
            os.close(output)
    if child.stdin is not None:
        with suppress(BrokenPipeError), child.stdin:
            child.stdin.write(process.stdin or b"")
    return child


def _opened(log: Path) -> tuple[Path, int]:
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))
    return log, os.O_WRONLY | os.O_CREAT | os.O_APPEND


def bound(log: Path) -> None:
    """Keep a log below LOG_BYTES, and what was in it in one file beside it. Raises OSError.

    The process writes on at the file's end. A line that it writes in between may get lost.
    """
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES:
            aside = log.with_name(f"{log.name}.1")
            aside.unlink(missing_ok=True)
            with open(aside, "xb", opener=_private) as kept, log.open("rb") as file:
                shutil.copyfileobj(file, kept)
            os.truncate(log, 0)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def send(child: Child, number: signal.Signals) -> None:
    """Signal the child; SIGKILL goes to all of its session's first process group."""
    with suppress(ProcessLookupError, PermissionError):
        if number == signal.SIGKILL:
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)


def tail(log: Path | None, lines: int = 15) -> str:
    """The last lines of a log, for a message; empty where there is none."""
    if log is None or not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])
