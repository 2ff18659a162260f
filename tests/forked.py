"""Processes of Haulier that start in a hundredth of a second: forks of one that imported it all.

Most of what a process of Haulier costs in a test is its imports, a second of CPU each. Here a
fork server (the standard library's) does them once per pytest process; each process is a fork that
runs its module as `python -m MODULE` would: with its own environment, session, signals and exit
status. It dies when pytest does.
"""

import atexit
import ctypes
import importlib
import io
import multiprocessing
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

PYTHON_MODULE = [sys.executable, "-m"]
HAULIER = [*PYTHON_MODULE, "service.cli.main"]

SUPERVISORS = {"up", "worker"}
"""Commands that start other processes, and tie those processes' lives to their own."""
LOOPS = {"scheduler", "inbox", "notifier"}
"""Commands that replace their process with another program."""

_LIBRARIES = (
    *("celery.app.base", "celery.apps.worker", "celery.bin.celery", "celery.bin.worker"),
    *("celery.concurrency.prefork", "celery.fixups.django", "celery.worker.consumer"),
    *("celery.worker.components", "kombu.transport.redis", "psycopg", "redis.asyncio"),
    *("sqlalchemy.dialects.postgresql.psycopg", "uvicorn.protocols.http.h11_impl"),
    *("uvicorn.lifespan.on", "uvicorn.loops.auto", "httpx", "rich.table", "typer.rich_utils"),
)
_AS_MAIN = ("service.cli.main", "service.simulator.__main__", "service.store.migrations")
"""Modules that the forks run, or that only Alembic may import."""
_OPTIONAL = ("service.cli.submit.parquet",)
"""Imports PyArrow, which starts threads."""

_PR_SET_PDEATHSIG = 1


def preload() -> None:
    """Import what Haulier's processes import. `workers` reads settings when it is imported."""
    import service

    for name in _LIBRARIES:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(service.__path__, "service."):
        if not module.name.startswith((*_AS_MAIN, *_OPTIONAL)):
            importlib.import_module(module.name)


def suits(argv: Sequence[str]) -> bool:
    """Whether a fork does the same as this command line."""
    if list(argv[: len(HAULIER)]) == HAULIER:
        return not {*argv[len(HAULIER) :][:1]} & (SUPERVISORS | LOOPS)
    return list(argv[:2]) == PYTHON_MODULE


class Forked:
    """A forked process, to be handled like a `subprocess.Popen`."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        stdout: Path,
        stderr: Path | None = None,
        stdin: Path = Path(os.devnull),
        cwd: Path | None = None,
    ) -> None:
        """Start `python -m …`; without `stderr`, both outputs go to `stdout`."""
        assert suits(argv), argv
        files = (stdin, stdout, stderr or stdout)
        started = (list(argv[2:]), dict(env), cwd or Path.cwd(), files)
        self._argv = argv
        self._process = _context().Process(target=_run, args=started, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit status (negative: the signal), or None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit status. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self._argv, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Signal the process if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _context() -> "multiprocessing.context.ForkServerContext":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    return context


def _run(
    command: list[str], environment: dict[str, str], directory: Path, files: tuple[Path, ...]
) -> None:
    """In the fork: run `python -m` with a command, and end as it does."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    for number, file in enumerate(files):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        opened = os.open(file, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for the whole process
    sys.stdout, sys.stderr = _unbuffered(1), _unbuffered(2)
    sys.argv = list(command)
    status = _status(command[0])
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    os._exit(status)


def _unbuffered(descriptor: int) -> io.TextIOWrapper:
    """As `python -u` has it."""
    raw = io.FileIO(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", write_through=True)


def _status(module: str) -> int:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:  # noqa: BLE001 - the interpreter would print it too
        traceback.print_exc()
        return 1
    return 0
