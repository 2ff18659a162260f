"""How much of a chore one task does: the next message of its kind goes on."""

import time
from collections.abc import Callable
from datetime import timedelta

PAGE = 200
AT_ONCE = timedelta(seconds=10)
"""The longest time that one task works on a chore."""


def time_is_up(stopping: Callable[[], bool]) -> Callable[[], bool]:
    """Return what says that one task has worked for long enough, or is to stop."""
    end = time.monotonic() + AT_ONCE.total_seconds()
    return lambda: stopping() or time.monotonic() > end
