"""When to poll a batch again. Pure arithmetic."""

from datetime import timedelta

TELLING = 5.0
"""The progress, in percent, from which it helps to estimate the rest."""


def next_poll(
    *,
    status: str,
    elapsed: timedelta,
    expected: timedelta | None,
    progress: float | None,
    fastest: timedelta,
    slowest: timedelta,
) -> timedelta:
    """The pause until the next look at a batch that runs since `elapsed`.

    Half of what is guessed to remain, so that the looks come closer as the end does. `expected` is
    how long such batches take (None: nobody knows), `progress` Together's word, 0 to 100, which is
    not to be relied on. Never less than `fastest`.
    """
    pause = _guess(elapsed, expected)
    if progress is not None and TELLING <= progress <= 100:
        pause = min(pause, elapsed * ((100 - progress) / progress) / 2)
    if status == "VALIDATING":
        pause = max(pause, fastest * 2)
    return max(fastest, min(pause, slowest))


def _guess(elapsed: timedelta, expected: timedelta | None) -> timedelta:
    """Estimate from the time alone. After the expected end, polls become rarer again."""
    if expected is None:
        return elapsed / 5  # at worst, the end is seen a fifth later than it was
    return abs(expected - elapsed) / 2


def spread(pause: timedelta, luck: float) -> timedelta:
    """A pause made longer by up to a tenth, so that what began together does not stay together.

    `luck` is in [0, 1). Never shorter: what is configured as the least pause is the least.
    """
    return pause * (1 + luck / 10)
