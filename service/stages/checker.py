"""Running schemas and expressions over answers, in a process that can be stopped."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from threading import Timer
from types import TracebackType
from typing import IO, Self

import msgspec

from service.rules import check_process
from service.rules.check_process import Asked, Reply
from service.rules.checks import Costly

WINDOW = 64
"""The most answers that are sent before their replies are read. Those replies fit into a pipe, so
neither side ever waits for the other to read."""
MOST_STOPPED = 3
"""After so many answers that took too long, no more are tried with the same check."""
MOST_STOPPED_IN_ALL = 20
"""The same for all checks of a batch."""
PATIENCE = 300.0
"""Seconds that a window may take on the wall. Only a stopped machine takes so long."""

_ENDS = {-signal.SIGPROF, -signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL}
"""How the process ends over an answer. Whatever else ends it is nobody's check."""
_NEEDED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


class Checker:
    """Runs the costly checks of a batch. A process starts with the first answer."""

    def __init__(self, checks: Sequence[Sequence[Costly]]) -> None:
        self._checks = checks
        self._process: subprocess.Popen[bytes] | None = None
        self._known: set[int] = set()
        self._stopped: Counter[int] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def replies(self, check: int, answers: Sequence[Sequence[str]]) -> list[Reply]:
        """Return a reply for each of up to WINDOW answers, given by their texts. Raises OSError."""
        found: list[Reply] = []
        while len(found) < len(answers):
            if not self._is_tried(check):
                found.append(Reply(stopped=True))
                continue
            found += self._ask(check, answers[len(found) :])
            self._stopped[check] += found[-1].stopped
        return found

    def _is_tried(self, check: int) -> bool:
        all_stopped = self._stopped.total()
        return self._stopped[check] < MOST_STOPPED and all_stopped < MOST_STOPPED_IN_ALL

    def _ask(self, check: int, answers: Sequence[Sequence[str]]) -> list[Reply]:
        """Return the replies as far as they come: those behind an answer that stops must be asked
        for again."""
        process = self._process or self._start()
        watch = Timer(PATIENCE, process.kill)
        watch.start()
        try:
            # It may end before it has read everything.
            with suppress(BrokenPipeError):
                for texts in answers:
                    _write(process.stdin, self._asked(check, texts))
                _flush(process.stdin)
            found = list(islice(_replies(process.stdout), len(answers)))
        finally:
            watch.cancel()
        if len(found) < len(answers):
            self._end()
            if process.returncode not in _ENDS:
                raise OSError(f"the process that checks answers ended ({process.returncode})")
            found.append(Reply(stopped=True))
        return found

    def _asked(self, check: int, texts: Sequence[str]) -> Asked:
        costly = None
        if check not in self._known:
            self._known.add(check)
            costly = [(each.kind, msgspec.json.encode(each.value)) for each in self._checks[check]]
        return Asked(check, list(texts), costly)

    def _start(self) -> "subprocess.Popen[bytes]":
        self._known.clear()
        self._process = subprocess.Popen(
            # Not from the current folder, and with no secret of this process.
            [sys.executable, "-P", "-m", check_process.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: os.environ[name] for name in _NEEDED if name in os.environ},
        )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdout is not None:
            process.stdout.close()
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        # One that is still alive has read its end of input by now, and has nothing to do.
        process.wait()


def _write(stdin: IO[bytes] | None, asked: Asked) -> None:
    assert stdin is not None
    data = msgspec.msgpack.encode(asked)
    stdin.write(len(data).to_bytes(4))
    stdin.write(data)


def _flush(stdin: IO[bytes] | None) -> None:
    assert stdin is not None
    stdin.flush()


def _replies(stdout: IO[bytes] | None) -> Iterator[Reply]:
    assert stdout is not None
    while len(head := stdout.read(4)) == 4:
        yield msgspec.msgpack.decode(stdout.read(int.from_bytes(head)), type=Reply)
