"""Stopping a server that an earlier run left on the same data."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from service.cli.up.errors import StartError

PATIENCE = timedelta(seconds=60)
"""How long a server of an earlier run may take to shut down."""


def end_previous(pid_file: Path, *, data: Path, stop_signal: signal.Signals) -> None:
    """Stop the server that runs on `data`, if any, and remove its pid file. Raises StartError.

    The caller holds the home's lock, so a server that still runs on `data` is from an earlier run.
    Its command line names `data`. The pid alone proves nothing: another process may have it now.
    """
    try:
        pid = int(pid_file.read_text().split()[0])
    except (FileNotFoundError, IndexError, ValueError):
        pid = 0
    deadline = time.monotonic() + PATIENCE.total_seconds()
    asked = False
    while pid > 0 and str(data) in _command_line(pid):
        if not asked:
            with suppress(ProcessLookupError):
                os.kill(pid, stop_signal)
            asked = True
        if time.monotonic() > deadline:
            raise StartError(f"process {pid} still runs on {data} and does not stop: end it")
        time.sleep(0.05)
    pid_file.unlink(missing_ok=True)


def _command_line(pid: int) -> str:
    """Return the command line of a process; empty if there is no such process."""
    proc = Path("/proc") / str(pid) / "cmdline"
    if Path("/proc/self").exists():
        try:
            return proc.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout
