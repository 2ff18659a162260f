"""Ending the server that an earlier run left behind on the same data."""

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
    """Make sure that no server runs on `data`, and remove a pid file that nobody stands behind.

    The caller holds the home's lock, so whatever still runs on `data` is a leftover, often just on
    its way out. It is known by its command line, which names `data`; a pid alone may by now belong
    to a stranger.
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
    """The arguments a process was started with; empty where there is none."""
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
