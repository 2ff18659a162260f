"""The canary of a job: its first requests go first, and the rest waits for how they fare. Pure."""

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum

HELD_UNTIL = datetime(9999, 1, 1, tzinfo=UTC)
"""From when on a part that is held may be let in: not by itself."""


class Held(StrEnum):
    """What the rest of a job is held by."""

    CANARY = "canary"


class Fate(StrEnum):
    """What becomes of the rest."""

    GOES = "goes"
    STAYS = "stays"


def most_failures(canary: int, asked: int | None) -> int:
    """Return how many requests of a canary may fail; half of them if nothing else was asked."""
    return canary // 2 if asked is None else asked


def fate(canary: int, failures: int, *, succeeded: int, failed: int) -> Fate | None:
    """Decide about the rest of a job, as soon as the requests of its canary leave no doubt.

    `failures` is how many of them may fail. None: it is too early to say.
    """
    if failed > failures:
        return Fate.STAYS
    return Fate.GOES if succeeded >= canary - failures else None


def canary_problems(canary: int | None, failures: int | None) -> Iterator[str]:
    """Yield what is wrong with the fields of a spec."""
    if failures is None:
        return
    if canary is None:
        yield "`canary_failures` says nothing without `canary`"
    elif failures >= canary:
        yield f"`canary_failures` must be below `canary`, so {canary - 1} at most"
