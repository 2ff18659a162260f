"""Haulier's own processes in tests: real ones, with their logs in files."""

import os
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from service.cli.run.process import Child, Process, send, spawn, tail
from service.cli.up.parts import BEHIND
from tests import forked
from tests.forked import PYTHON_MODULE, Forked, suits

HAULIER = forked.HAULIER


class Running:
    """A started process."""

    def __init__(self, child: Child | Forked, log: Path) -> None:
        self._child = child
        self.log = log

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def output(self) -> str:
        """All that it has printed so far, to stdout and stderr."""
        return self.log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    def wait(self, timeout: float = 60) -> int:
        """Wait for its end; gives the exit status (negative: the signal)."""
        return self._child.wait(timeout)

    def signal(self, number: signal.Signals) -> None:
        _send(self._child, number)

    def kill(self) -> None:
        """kill -9 of this one process, not of its children: they have to find out."""
        with suppress(ProcessLookupError):
            self._child.kill()
        self._child.wait(timeout=10)

    def stop(self, timeout: float = 30) -> int:
        """Ask it to end, insist after `timeout`, and leave none of its group. Gives the status."""
        if self.alive:
            _send(self._child, signal.SIGCONT)
            _send(self._child, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout)
        _send(self._child, signal.SIGKILL)
        return self._child.wait(timeout=10)


class Processes:
    """Starts processes and ends them all, latest first."""

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        *,
        fork: bool = False,
        behind: Collection[str] = (),
    ) -> None:
        """Logs go to `directory`. With `fork`, processes start as forks where that is the same.

        Commands that are named in `behind` step back for the others, as in `haulier up`.
        """
        self._fork = fork
        self._behind = behind
        self._directory = directory
        self._environment = environment
        self._started: list[Running] = []

    def haulier(self, *arguments: str, **more: str) -> Running:
        """Start `haulier <arguments>`; `more` goes on top of the environment."""
        return self.start([*HAULIER, *arguments], **more)

    def start(self, argv: Sequence[str], **more: str) -> Running:
        """Start any program; `more` goes on top of the environment."""
        name = _name(argv)
        log = self._directory / f"{len(self._started)}-{name}.log"
        environment = {**self._environment, **more}
        log.touch()
        child: Child | Forked
        nice = BEHIND if name in self._behind else 0
        if self._fork and suits(argv) and not nice:
            child = Forked(argv, env=environment, stdout=log)
        else:
            child = spawn(Process(name=name, argv=argv, env=environment, log=log, nice=nice))
        running = Running(child, log)
        self._started.append(running)
        return running

    def stop(self) -> None:
        for running in reversed(self._started):
            running.stop()

    def kill(self) -> None:
        """kill -9 of all, latest first; much faster than asking workers to stop."""
        for running in reversed(self._started):
            running.kill()
            running.stop()

    def tails(self) -> str:
        """The last lines of every log, for a failed test's report."""
        return "\n".join(f"--- {r.log.name}\n{tail(r.log, 40)}" for r in self._started)


def _send(child: Child | Forked, number: signal.Signals) -> None:
    """Signal a process; SIGKILL goes to its whole process group."""
    if not isinstance(child, Forked):
        send(child, number)
        return
    with suppress(ProcessLookupError):
        if number == signal.SIGKILL:
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)


def _name(argv: Sequence[str]) -> str:
    """A command of Haulier, a module or a program, without its path."""
    if argv[: len(HAULIER)] == HAULIER:
        return next((a for a in argv[len(HAULIER) :] if not a.startswith("-")), "haulier")
    if argv[:2] == PYTHON_MODULE:
        return argv[2].rpartition(".")[2]
    return Path(argv[0]).name


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self").exists():
        try:
            return stat.read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip() in {"", "Z"}
