"""Whether and when to try again."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rules.errors import (
    AccountBlocked,
    BadInput,
    Conflict,
    HaulierError,
    Missing,
    Problem,
    RateLimited,
    Refused,
    StaleLease,
    Transient,
    Unreachable,
)
from service.rules.outcomes import Outcome, Pause, Retry
from service.rules.retry import LONGEST_PAUSE, Verdict, after, backoff, classify

# (code, status, message): what was seen of Together, with the verdict it deserves.
LINES = [
    ("batch_client_error", None, "Internal Server Error", Verdict.RETRYABLE),
    ("batch_client_error", 500, "Internal Server Error", Verdict.RETRYABLE),
    ("batch_client_error", None, "Maximum four stop sequences allowed", Verdict.PERMANENT),
    (
        "batch_client_error",
        None,
        "Selected function was not found in the tools list",
        Verdict.PERMANENT,
    ),
    ("batch_client_error", None, "tools[0]: missing field 'function'", Verdict.PERMANENT),
    (
        "batch_client_error",
        None,
        "missing 'model' field in body or not a string",
        Verdict.PERMANENT,
    ),
    ("batch_client_error", None, "Invalid model specified", Verdict.PERMANENT),
    ("batch_client_error", None, "Unable to access model some/model", Verdict.PERMANENT),
    (
        "batch_client_error",
        None,
        "Invalid model ID: Unable to access non-serverless model X",
        Verdict.PERMANENT,
    ),
    ("batch_client_error", None, "Content-Type must be multipart/form-data", Verdict.PERMANENT),
    ("timeout", None, "Request timeout", Verdict.RETRYABLE),
    (None, None, "Request timeout", Verdict.RETRYABLE),
    ("timeout", None, "", Verdict.RETRYABLE),
    ("invalid_request_error", None, "some new words", Verdict.PERMANENT),
    ("INVALID_REQUEST_ERROR", None, "some new words", Verdict.PERMANENT),
    ("invalid_request_error", None, "Internal Server Error", Verdict.RETRYABLE),
    ("never_seen", None, "some new words", Verdict.RETRYABLE),
    ("never_seen", 400, "some new words", Verdict.PERMANENT),
    (None, 422, "", Verdict.PERMANENT),
    (None, 400, "Internal server error", Verdict.RETRYABLE),
    (None, 429, "", Verdict.RETRYABLE),
    (None, 500, "", Verdict.RETRYABLE),
    (None, 503, "", Verdict.RETRYABLE),
    # The account's trouble, not the line's.
    (None, 401, "", Verdict.RETRYABLE),
    (None, 402, "", Verdict.RETRYABLE),
    (None, 403, "", Verdict.RETRYABLE),
    (None, None, "", Verdict.RETRYABLE),
]


@pytest.mark.parametrize(("code", "status", "message", "verdict"), LINES)
def test_a_failed_line_is_judged_by_its_words_before_its_code(
    code: str | None, status: int | None, message: str, verdict: Verdict
) -> None:
    assert classify(code, status, message) is verdict


@given(st.one_of(st.none(), st.text()), st.one_of(st.none(), st.integers()), st.text())
def test_every_failure_has_a_verdict(code: str | None, status: int | None, message: str) -> None:
    assert classify(code, status, message) in Verdict


bases = st.timedeltas(timedelta(milliseconds=1), timedelta(hours=1))
lucks = st.floats(0, 1, exclude_max=True)


@given(st.integers(-5, 10**9), bases, lucks)
def test_a_pause_lies_in_the_upper_half_and_under_five_minutes(
    failures: int, base: timedelta, luck: float
) -> None:
    pause = backoff(failures, base, luck)
    assert timedelta(0) < pause <= LONGEST_PAUSE
    assert pause >= min(base, LONGEST_PAUSE) * 0.5 - timedelta(microseconds=1)


@given(st.integers(1, 100), bases, lucks)
def test_a_pause_never_shrinks_with_more_failures(
    failures: int, base: timedelta, luck: float
) -> None:
    assert backoff(failures, base, luck) <= backoff(failures + 1, base, luck)


def test_pauses_double_until_the_longest() -> None:
    seconds = [backoff(n, timedelta(seconds=10), 1.0).total_seconds() for n in range(1, 8)]
    assert seconds == [10, 20, 40, 80, 160, 300, 300]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Transient("t"), Retry("t")),
        (Transient("t", sent=False), Retry("t", not_sent=True)),
        (Unreachable("u"), Retry("u")),
        (RateLimited("r", wait=timedelta(seconds=7)), Pause("r", timedelta(seconds=7))),
        (RateLimited("r", wait=timedelta(0)), Pause("r", timedelta(0))),
        (RateLimited("r", wait=None), Pause("r")),
        (AccountBlocked("a"), Pause("a", blocked=True)),
        (AccountBlocked("a", spending=True), Pause("a", blocked=True, spending=True)),
        (Refused("400 no", status=400), Retry("400 no")),
        (Missing("404 no", status=404), Retry("404 no")),
        (BadInput([Problem("bad", 3)]), Retry("line 3: bad")),
        (Conflict("c"), Retry("c")),
        (StaleLease("s"), Retry("s")),
    ],
)
def test_what_becomes_of_a_row_after_an_error(error: HaulierError, outcome: Outcome) -> None:
    assert after(error) == outcome


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (Transient("t"), True),
        (RateLimited("r", wait=None), False),
        (AccountBlocked("a"), False),
    ],
)
def test_only_what_was_certainly_not_done_counts_as_not_sent(
    error: Unreachable, sent: bool
) -> None:
    assert error.sent is sent
