"""Stopping a process's clock, and that of its children, while its connections stay open."""

import os
import signal

from tests.processes import Running


def freeze(process: Running) -> None:
    """As a paused machine does it. The process leads its group, its children are in it."""
    os.killpg(process.pid, signal.SIGSTOP)


def thaw(process: Running) -> None:
    os.killpg(process.pid, signal.SIGCONT)
