"""Waiting for something to come true, with a deadline instead of luck."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(attempt: Callable[[], T], timeout: float = 30, *, interval: float = 0.05) -> T:
    """Call `attempt` until it gives something truthy, and return that.

    Exceptions count as "not yet". After `timeout` seconds the last of them is raised, or an
    AssertionError that shows the last value.
    """
    deadline = time.monotonic() + timeout
    while True:
        failure: Exception | None = None
        value: T | None = None
        try:
            value = attempt()
        except Exception as error:  # noqa: BLE001 - any failure may pass; the last one is raised
            failure = error
        if failure is None and value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s; last: {value!r}") from failure
        time.sleep(interval)
