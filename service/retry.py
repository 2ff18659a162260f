"""Whether and when to try again. Pure: tables and arithmetic."""

from datetime import timedelta
from enum import StrEnum

from service.errors import AccountBlocked, HaulierError, RateLimited, Unreachable
from service.work import Outcome, Pause, Retry

LONGEST_PAUSE = timedelta(minutes=5)

MOST_LOST = 20
"""How often the provider may give a request back unserved before that counts as a failure."""


class Verdict(StrEnum):
    RETRYABLE = "retryable"
    PERMANENT = "permanent"


# Where a text settles it, whatever code or status stands beside it (TOGETHER_API: the code
# `batch_client_error` covers permanent and transient faults alike). Lower case.
TEXTS: tuple[tuple[str, Verdict], ...] = (
    ("internal server error", Verdict.RETRYABLE),
    ("timeout", Verdict.RETRYABLE),
    ("timed out", Verdict.RETRYABLE),
    ("overloaded", Verdict.RETRYABLE),
    ("rate limit", Verdict.RETRYABLE),
    ("service unavailable", Verdict.RETRYABLE),
    ("maximum four stop sequences allowed", Verdict.PERMANENT),
    ("selected function was not found in the tools list", Verdict.PERMANENT),
    ("missing field", Verdict.PERMANENT),
    ("missing 'model' field", Verdict.PERMANENT),
    ("invalid model", Verdict.PERMANENT),
    ("unable to access", Verdict.PERMANENT),
    ("content-type must be multipart/form-data", Verdict.PERMANENT),
    ("maximum context length", Verdict.PERMANENT),
)

CODES: dict[str, Verdict] = {
    "timeout": Verdict.RETRYABLE,
    "server_error": Verdict.RETRYABLE,
    "rate_limit_exceeded": Verdict.RETRYABLE,
    "invalid_request_error": Verdict.PERMANENT,
    "context_length_exceeded": Verdict.PERMANENT,
    "content_policy_violation": Verdict.PERMANENT,
}

# What a repeated request cannot cure. 401, 402 and 403 are the account's trouble, not the line's.
PERMANENT_STATUSES = frozenset({400, 404, 405, 409, 410, 413, 415, 422})


def classify(code: str | None, status: int | None, message: str) -> Verdict:
    """Whether a failed line is worth another attempt. What nobody knows is retryable."""
    words = message.lower()
    for text, verdict in TEXTS:
        if text in words:
            return verdict
    if code is not None and code.lower() in CODES:
        return CODES[code.lower()]
    if status in PERMANENT_STATUSES:
        return Verdict.PERMANENT
    return Verdict.RETRYABLE


def backoff(failures: int, base: timedelta, luck: float) -> timedelta:
    """The pause after the n-th failure in a row (n from 1): doubling, at most five minutes.

    `luck` in [0, 1) spreads it over the upper half, so that what failed together comes back apart.
    """
    full: timedelta = min(base * 2 ** min(max(failures, 1) - 1, 20), LONGEST_PAUSE)
    return full * (0.5 + 0.5 * luck)


def after(error: HaulierError) -> Outcome:
    """What happens to a row whose stage raised an error."""
    match error:
        case RateLimited(wait=wait):
            return Pause(str(error), wait if wait is not None else timedelta(seconds=30))
        case AccountBlocked():
            return Pause(str(error))
        case Unreachable(sent=sent):
            return Retry(str(error), not_sent=not sent)
        case _:
            return Retry(str(error))
