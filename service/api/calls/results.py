"""What a call that has ended says: the provider's body, or an error in the provider's terms."""

import json
from dataclasses import dataclass
from http import HTTPStatus
from math import isfinite
from uuid import UUID

import msgspec

from service.api.problems import NOT_FOUND, HttpProblem, Kind
from service.payloads.blobs import Blobs
from service.rules.retry import Verdict, classify
from service.rules.states import JobState
from service.store import calls as store
from service.store.calls import Settled
from service.store.engine import Database

JOB, BATCH = "haulier-job", "haulier-batch"
"""The headers that name a call's job, and the last batch that it was in."""

STATUSES = {
    "timeout": 504,
    "server_error": 500,
    "rate_limit_exceeded": 429,
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "content_policy_violation": 400,
    "cancelled": 409,
}
"""The status that goes with the code of a dead letter. `status_429` and such tell it themselves."""


@dataclass(frozen=True)
class Answer:
    """The provider's answer (JSON), as it came."""

    body: bytes
    batch: str | None


class _Error(msgspec.Struct):
    code: str = "error"
    message: str = ""


class _Response(msgspec.Struct):
    body: msgspec.Raw


class _Line(msgspec.Struct):
    response: _Response | None = None
    error: _Error | None = None


def result_of(found: Settled, line: bytes | None) -> Answer | HttpProblem:
    """Return what to answer. `line` is the result line of the call, if it has one."""
    batch = None if found.batch is None else str(found.batch)
    if found.state is None:
        return HttpProblem(NOT_FOUND, "the call was deleted before it was answered")
    if line is None:
        reason = f"the job is {found.state}: {found.error or 'it has no results'}"
        is_cancelled = found.state is JobState.CANCELLED
        return _failure("cancelled" if is_cancelled else "error", reason, found, batch)
    read = _read(line)
    if read.response is not None:
        return Answer(bytes(read.response.body), batch)
    error = read.error or _Error(message="the result line of the call cannot be read")
    return _failure(error.code, error.message, found, batch)


def read_result(db: Database, blobs: Blobs, job_id: UUID) -> Answer | HttpProblem | None:
    """Return what to answer for one call; None as long as it has not ended."""
    for found in store.settled(db, [job_id]):
        line = None if found.line is None else blobs.get(found.line[0])
        return result_of(found, line)
    return None


def _failure(code: str, message: str, found: Settled, batch: str | None) -> HttpProblem:
    status = status_of(code, message)
    # All attempts have been made: another repeat would get the same.
    headers = {"x-should-retry": "false", JOB: str(found.job_id)}
    if batch is not None:
        headers[BATCH] = batch
    return HttpProblem(Kind(code, status, HTTPStatus(status).phrase), message, headers=headers)


def status_of(code: str, message: str) -> int:
    """Return the status that the provider gives an ordinary call for such an error."""
    if code in STATUSES:
        return STATUSES[code]
    prefix, _, number = code.partition("status_")
    if not prefix and number in _KNOWN:
        return int(number)
    return 400 if classify(code, None, message) is Verdict.PERMANENT else 500


_KNOWN = {str(status.value) for status in HTTPStatus if status >= 400}


def _read(line: bytes) -> _Line:
    try:
        return msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        # What a provider writes and JSON does not know (NaN, bytes that are not UTF-8) is read as
        # leniently as everywhere, and written so that the SDK can read it.
        response = json.loads(line.decode(errors="replace"))["response"]
        body = json.dumps(_plain(response["body"]), ensure_ascii=False).encode(errors="replace")
        return _Line(response=_Response(msgspec.Raw(body)))
    except (ValueError, KeyError, TypeError, RecursionError):
        return _Line()


def _plain(value: object) -> object:
    """Return JSON without numbers that JSON does not have: these become null."""
    match value:
        case dict():
            return {name: _plain(one) for name, one in value.items()}
        case list():
            return [_plain(one) for one in value]
        case float() if not isfinite(value):
            return None
    return value
