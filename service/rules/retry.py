"""Whether and when to try again. Pure: tables and arithmetic."""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum

from service.rules.errors import AccountBlocked, Broken, HaulierError, RateLimited, Unreachable
from service.rules.outcomes import Outcome, Pause, Retry

LONGEST_PAUSE = timedelta(minutes=5)
LONGEST_OUTAGE_PAUSE = timedelta(hours=1)
LONGEST_HOLD = timedelta(minutes=15)

MOST_LOST = 20
"""How often the provider may return a request unserved before that counts as a failure."""
MANY_FAILURES = 5
"""After so many failures in a row, people are told."""
MOST_FAULTS = 5
"""How many equal faults of ours in a row park a row."""
MOST_REFUSALS = 5
"""How often Together may refuse a batch with a key that works before the batch fails for it."""
MOST_HELD = 100
"""How often a batch may find its lane's queue full, or the credit used up, before it fails."""
MOST_UNCOUNTED = 3
"""In how many rounds a line may fail with most others of its batch before that is an attempt."""
MOST_SUSPECTS = 64
"""How many batches the search for the bad lines of one shard may cost."""


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
TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


def classify(
    code: str | None,
    status: int | None,
    message: str,
    more: Sequence[tuple[str, Verdict]] = (),
) -> Verdict:
    """Whether a failed line is worth another attempt. An unknown failure is retryable.

    `more` are texts (lower case) from the settings; they come before the table's own.
    """
    words = message.lower()
    for text, verdict in (*more, *TEXTS):
        if text in words:
            return verdict
    if code is not None and code.lower() in CODES:
        return CODES[code.lower()]
    if status in PERMANENT_STATUSES:
        return Verdict.PERMANENT
    return Verdict.RETRYABLE


OwnTexts = tuple[tuple[str, Verdict], ...]


def own_texts(*, permanent: Sequence[str], retryable: Sequence[str]) -> OwnTexts:
    """The settings' additions to the table, in its form."""
    return (
        *((text.lower(), Verdict.PERMANENT) for text in permanent),
        *((text.lower(), Verdict.RETRYABLE) for text in retryable),
    )


def is_outage(
    message: str,
    code: str | None = None,
    status: int | None = None,
    more: Sequence[tuple[str, Verdict]] = (),
) -> bool:
    """Whether a failure tells of trouble at Together, which no request has caused.

    An unknown failure does not: what is worth another attempt is not yet an outage.
    """
    words = message.lower()
    for text, verdict in (*more, *TEXTS):
        if text in words:
            return verdict is Verdict.RETRYABLE
    if code is not None and code.lower() in CODES:
        return CODES[code.lower()] is Verdict.RETRYABLE
    return status in TRANSIENT_STATUSES


def trouble_words(text: str) -> str:
    """Return what of a text comes from the table itself, and so from nobody's requests."""
    words = text.lower()
    known = (text for text, verdict in TEXTS if verdict is Verdict.RETRYABLE and text in words)
    return next(known, "a transient error")


class BatchFault(StrEnum):
    """Why a whole batch FAILED."""

    LINES = "lines"  # one of its lines is not fit
    OUTAGE = "outage"  # trouble at Together
    FILE = "file"  # its input file could not be read
    HOPELESS = "hopeless"  # no batch like it will ever run
    UNKNOWN = "unknown"


BATCH_TEXTS: tuple[tuple[str, BatchFault], ...] = (
    ("failed to download input file", BatchFault.FILE),
    ("invalid model", BatchFault.HOPELESS),
    ("non-serverless model", BatchFault.HOPELESS),
    ("cannot be batched", BatchFault.HOPELESS),
    ("input format error", BatchFault.LINES),
    ("invalid json", BatchFault.LINES),
    ("custom_id", BatchFault.LINES),
    ("(within chunk)", BatchFault.LINES),
)


def batch_fault(message: str) -> BatchFault:
    """Return what the `error` of a FAILED batch is about."""
    words = message.lower()
    for text, fault in BATCH_TEXTS:
        if text in words:
            return fault
    return BatchFault.OUTAGE if is_outage(message) else BatchFault.UNKNOWN


def backoff(
    failures: int, base: timedelta, luck: float, *, longest: timedelta = LONGEST_PAUSE
) -> timedelta:
    """Return the pause after the n-th failure in a row (n from 1): doubling, at most `longest`.

    `luck` in [0, 1) spreads it over the upper half, so that rows that failed together come back
    apart.
    """
    full: timedelta = min(base * 2 ** min(max(failures, 1) - 1, 20), longest)
    return full * (0.5 + 0.5 * luck)


def outage_pause(rounds: int, base: timedelta) -> timedelta:
    """Return the pause after the n-th round in a row that Together's trouble cost (n from 1).

    Longer than a `backoff`: a minute at first (with a base of 10 s), then doubling to an hour.
    """
    return backoff(rounds, base * 6, 1.0, longest=LONGEST_OUTAGE_PAUSE)


def after(error: HaulierError) -> Outcome:
    """Return the outcome for a row whose stage raised an error."""
    match error:
        case RateLimited(wait=wait):
            return Pause(str(error), wait)
        case AccountBlocked(spending=spending):
            return Pause(str(error), blocked=True, spending=spending)
        case Broken():
            return Retry(str(error), fault=True)
        case Unreachable(sent=sent):
            return Retry(str(error), not_sent=not sent)
        case _:
            return Retry(str(error))
