"""Errors, named for what the caller must do.

HaulierError
├── Unreachable        the world outside did not answer as it should: try again later
│   ├── Transient      nothing is known to be wrong with what was asked
│   ├── RateLimited    the whole account must slow down
│   ├── QueueFull      the batch's lane must wait: its queue at Together is full
│   └── AccountBlocked the account must pause: its key is refused or its credit is used up
├── Contended          another transaction holds what this needs: soon try again
├── Refused            Together will never take this as it is: do not repeat it
│   └── Missing        Together does not know the id
├── Broken             something of ours is not as its row says: trying again will hardly help
├── BadInput           a producer's spec or lines cannot be run; says what, where, what to do
├── HandedBack         the worker is to stop: give the row back as it is
├── StaleLease         the lease was lost: drop everything, change nothing
├── OverQuota          the producer's limit is reached: come back later, or with less
└── Conflict           the row is not in a state in which this can be done
    ├── IdTaken        the id that was asked for is that of another producer's job
    └── Disabled       the producer is disabled: an operator would have to enable it
"""

from dataclasses import dataclass
from datetime import timedelta

from config.redaction import redact


class HaulierError(Exception):
    """The base of every error that Haulier raises on purpose."""


class Unreachable(HaulierError):
    """Together did not do what was asked.

    `sent` is False only where it is certain that the request never reached it.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class Transient(Unreachable):
    """Try again later."""


class RateLimited(Unreachable):
    """Slow the whole account down, for `wait` where Together named a time."""

    def __init__(self, message: str, *, wait: timedelta | None) -> None:
        super().__init__(message, sent=False)
        self.wait = wait


class QueueFull(Unreachable):
    """Hold the lane, for `wait` where Together named a time."""

    def __init__(self, message: str, *, wait: timedelta | None) -> None:
        super().__init__(message, sent=False)
        self.wait = wait


class AccountBlocked(Unreachable):
    """The key is refused (401, 403) or the credit used up (402): pause the account.

    `spending` where only what costs money is refused. Together may also mean only what was asked:
    `service.stages.refusals` finds out.
    """

    def __init__(self, message: str, *, spending: bool = False) -> None:
        super().__init__(message, sent=False)
        self.spending = spending


class Contended(HaulierError):
    """Another transaction holds what this needs, such as an idempotency key. It may last."""


class Refused(HaulierError):
    """Together refused what was asked (4xx): asking again changes nothing."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Missing(Refused):
    """Together does not know the file or batch (404)."""


class Broken(HaulierError):
    """A blob or a row of ours contradicts another one: a deterministic fault."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input. `line` is 1-based, None for the spec itself."""

    message: str
    line: int | None = None

    def __str__(self) -> str:
        return self.message if self.line is None else f"line {self.line}: {self.message}"


class BadInput(HaulierError):
    """A batch spec or its lines cannot be run. `problems` has at most MOST_PROBLEMS entries."""

    def __init__(self, problems: list[Problem], *, more: int = 0, too_large: bool = False) -> None:
        self.problems = problems
        self.more = more
        self.too_large = too_large
        tail = f"; and {more} more" if more else ""
        super().__init__("; ".join(map(str, problems)) + tail)


MOST_PROBLEMS = 100

ERROR_TEXT = 4000
"""The most characters of an error message that a row or a result line keeps."""


def error_text(message: str) -> str:
    """A message as a text column takes it: no NUL, no half surrogate, at most ERROR_TEXT long.

    Every error that a row keeps goes through here, so that no row keeps a secret.
    """
    whole = redact(message).replace("\x00", "\ufffd").encode(errors="replace").decode()
    return whole[:ERROR_TEXT]


class OverQuota(HaulierError):
    """A producer's limit is reached. `wait` is None where waiting does not help."""

    def __init__(self, message: str, *, wait: timedelta | None) -> None:
        super().__init__(message)
        self.wait = wait


class StaleLease(HaulierError):
    """Somebody else has the row by now: whatever was done here must change nothing."""


class HandedBack(HaulierError):
    """The worker is to stop, and what it is on would take too long: somebody else will do it."""


class Conflict(HaulierError):
    """The thing exists but is not in a state in which this can be done."""


class IdTaken(Conflict):
    """The id that a job was to have is that of another producer's job."""


class Disabled(Conflict):
    """The producer is disabled, and can submit nothing."""

    def __init__(self, producer: str) -> None:
        super().__init__(f"the producer {producer!r} is disabled; an operator can enable it")
