"""When to look at a batch again."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rules.pace import next_poll, spread

FASTEST = timedelta(seconds=30)
SLOWEST = timedelta(seconds=300)


def _seconds(
    status: str, elapsed: float, expected: float | None = None, progress: float | None = None
) -> float:
    return next_poll(
        status=status,
        elapsed=timedelta(seconds=elapsed),
        expected=None if expected is None else timedelta(seconds=expected),
        progress=progress,
        fastest=FASTEST,
        slowest=SLOWEST,
    ).total_seconds()


@pytest.mark.parametrize(
    ("status", "elapsed", "expected", "progress", "pause"),
    [
        # Nothing is known but for how long it has run.
        ("IN_PROGRESS", 0, None, None, 30),
        ("IN_PROGRESS", 500, None, None, 100),
        ("IN_PROGRESS", 86_400, None, None, 300),
        ("A_NEW_WORD", 500, None, None, 100),
        # Half of what remains of what such batches took.
        ("IN_PROGRESS", 0, 400, None, 200),
        ("IN_PROGRESS", 200, 400, None, 100),
        ("IN_PROGRESS", 390, 400, None, 30),
        ("IN_PROGRESS", 0, 80_000, None, 300),
        # Overdue: it may be another kind of batch.
        ("IN_PROGRESS", 400, 400, None, 30),
        ("IN_PROGRESS", 600, 400, None, 100),
        # Together's word for how far it is, where that says it is soon.
        ("IN_PROGRESS", 300, 1000, 60, 100),
        ("IN_PROGRESS", 300, 1000, 100, 30),
        ("IN_PROGRESS", 300, 500, 10, 100),
        ("IN_PROGRESS", 300, 1000, 1, 300),
        ("IN_PROGRESS", 300, 500, 0, 100),
        ("IN_PROGRESS", 300, 500, -7, 100),
        ("IN_PROGRESS", 300, 500, 250, 100),
        # Nothing ends before it was even looked at.
        ("VALIDATING", 0, None, None, 60),
        ("VALIDATING", 0, 10, 100, 60),
        ("VALIDATING", 0, 400, None, 200),
    ],
)
def test_looks_come_closer_as_the_end_does(
    status: str, elapsed: float, expected: float | None, progress: float | None, pause: float
) -> None:
    assert _seconds(status, elapsed, expected, progress) == pause


durations = st.timedeltas(timedelta(0), timedelta(days=400))


@given(
    status=st.sampled_from(["VALIDATING", "IN_PROGRESS", "WHATEVER"]),
    elapsed=st.timedeltas(timedelta(days=-1), timedelta(days=400)),
    expected=st.none() | durations,
    progress=st.none() | st.floats(),
    fastest=st.timedeltas(timedelta(milliseconds=1), timedelta(hours=1)),
    slowest=st.timedeltas(timedelta(milliseconds=1), timedelta(hours=1)),
    luck=st.floats(0, 1, exclude_max=True),
)
def test_no_look_is_tighter_than_configured_nor_later_than_the_slowest(
    *,
    status: str,
    elapsed: timedelta,
    expected: timedelta | None,
    progress: float | None,
    fastest: timedelta,
    slowest: timedelta,
    luck: float,
) -> None:
    pause = next_poll(
        status=status,
        elapsed=elapsed,
        expected=expected,
        progress=progress,
        fastest=fastest,
        slowest=slowest,
    )
    assert fastest <= pause <= max(fastest, slowest)
    assert pause <= spread(pause, luck) <= pause * 1.1
