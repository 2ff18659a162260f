"""Keys from a terminal, one at a time, without Enter."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Pressed = Callable[[float], str]
"""Returns what was pressed within so many seconds; "" for nothing."""


@contextmanager
def pressed_keys() -> Iterator[Pressed]:
    """Yield what returns the keys. Where standard input is no terminal, there are none."""
    if not sys.stdin.isatty():
        yield _nothing
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)  # Ctrl-C stays Ctrl-C
        yield lambda seconds: _read(terminal, seconds)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _nothing(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _read(terminal: int, seconds: float) -> str:
    readable, _, _ = select.select([terminal], [], [], seconds)
    return os.read(terminal, 16).decode(errors="replace") if readable else ""
