"""What the API says when it does not do what it was asked: problem documents (RFC 9457).

A kind is stable: clients may tell errors apart by `type`. `detail` is for people and may change.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from math import ceil
from typing import Any

import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.payloads.blobs import STORAGE_ERRORS
from service.rules.errors import (
    MOST_PROBLEMS,
    BadInput,
    Conflict,
    Contended,
    Disabled,
    OverQuota,
    Problem,
)
from service.store.engine import is_contended, is_unavailable, lacks_schema

MEDIA_TYPE = "application/problem+json"
CUT_OFF = "the connection ended in the middle of the body"
RETRY_AFTER = {"Retry-After": "5"}


@dataclass(frozen=True)
class Kind:
    """One sort of problem: the end of its `type`, its status, its title."""

    slug: str
    status: int
    title: str

    @property
    def type(self) -> str:
        return f"urn:haulier:problem:{self.slug}"


UNAUTHORIZED = Kind("unauthorized", 401, "A valid bearer token is needed")
FORBIDDEN = Kind("insufficient-scope", 403, "The token does not allow this")
NOT_FOUND = Kind("not-found", 404, "There is nothing here")
WRONG_METHOD = Kind("method-not-allowed", 405, "The path does not take this method")
BROKEN_BODY = Kind("broken-body", 400, "The request's body did not arrive whole")
SLOW_BODY = Kind("slow-body", 408, "The request's body came too slowly")
WAIT_AGAIN = Kind("wait-again", 408, "The answer to the call is still to come")
NOT_ACCEPTABLE = Kind("not-acceptable", 406, "The answer cannot be coded as it is asked for")
NOT_FINISHED = Kind("not-finished", 409, "The job has not finished")
NO_RESULTS = Kind("no-results", 409, "The job has no results")
ALREADY_ENDED = Kind("already-ended", 409, "The job has ended")
NOT_RETRYABLE = Kind("not-retryable", 409, "The job cannot be retried")
NOTHING_HELD = Kind("nothing-held", 409, "Nothing of the job is held")
NOTHING_PARKED = Kind("nothing-parked", 409, "Nothing of the job waits for an operator")
KEY_REUSED = Kind("idempotency-key-reused", 409, "The idempotency key stands for another job")
NAME_TAKEN = Kind("name-taken", 409, "There is one of this name already")
PRODUCER_DISABLED = Kind("producer-disabled", 409, "The producer is disabled")
PRODUCER_IN_USE = Kind("producer-in-use", 409, "The producer cannot be deleted")
ACCOUNT_OPEN = Kind("account-not-paused", 409, "The account is not paused")
ACCOUNT_STOPPED = Kind("account-paused", 409, "An operator has paused the account")
LANE_AS_IT_IS = Kind("lane-not-probed", 409, "The lane cannot be probed")
TOKEN_ENDED = Kind("token-ended", 409, "The token has ended")
TOO_LARGE = Kind("too-large", 413, "The request is too large")
UNSUPPORTED = Kind("unsupported-media-type", 415, "The body's type is not taken here")
BAD_RANGE = Kind("range-not-satisfiable", 416, "The range lies outside the results")
INVALID = Kind("invalid-input", 422, "What was sent cannot be run")
OVER_LIMIT = Kind("over-limit", 429, "The producer's limit is reached")
TOO_MANY_CALLS = Kind("too-many-calls", 429, "No more calls can wait")
TOO_MANY_FAILURES = Kind("too-many-failures", 429, "Too many wrong tokens came from this address")
INTERNAL = Kind("internal-error", 500, "Something went wrong here")
TOO_MANY_STREAMS = Kind("too-many-streams", 503, "No more streams can be opened")
TOO_MANY_CONNECTIONS = Kind("too-many-connections", 503, "No more connections can be opened")
TOO_MANY_BODIES = Kind("too-many-bodies", 503, "No more request bodies can be held")
CONTENDED = Kind("contended", 503, "Another transaction is in the way")
NO_DATABASE = Kind("database-unavailable", 503, "Postgres cannot be reached")
NOT_MIGRATED = Kind("database-not-migrated", 503, "The database has another schema")
NO_STORAGE = Kind("storage-unavailable", 503, "Blob storage does not work")


class HttpProblem(Exception):
    """Ends a request with a problem document; `extras` are further members of it."""

    def __init__(
        self, kind: Kind, detail: str, *, headers: Mapping[str, str] | None = None, **extras: Any
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = headers
        self.extras = extras

    def response(self) -> Response:
        return Response(
            document(self.kind, self.detail, **self.extras),
            status_code=self.kind.status,
            media_type=MEDIA_TYPE,
            headers=self.headers,
        )


def document(kind: Kind, detail: str, **extras: Any) -> bytes:
    """The problem document itself."""
    return msgspec.json.encode(
        {
            "type": kind.type,
            "title": kind.title,
            "status": kind.status,
            "detail": detail,
            **extras,
        }
    )


def invalid(message: str) -> HttpProblem:
    """One thing is wrong with the request, and it is not in a line."""
    return bad_input(BadInput([Problem(message)]))


def bad_input(error: BadInput) -> HttpProblem:
    """The problems with their lines, and how many more there are."""
    return HttpProblem(
        TOO_LARGE if error.too_large else INVALID,
        _summary(error),
        problems=[{"line": found.line, "message": found.message} for found in error.problems],
        more=error.more,
    )


def not_stored(error: Conflict) -> HttpProblem:
    """409 for a submission that cannot be stored beside what is there."""
    kind = PRODUCER_DISABLED if isinstance(error, Disabled) else KEY_REUSED
    return HttpProblem(kind, str(error))


def over_quota(error: OverQuota) -> HttpProblem:
    """429, or 413 where waiting would not help."""
    if error.wait is None:
        return bad_input(BadInput([Problem(str(error))], too_large=True))
    seconds = max(ceil(error.wait.total_seconds()), 1)
    return HttpProblem(OVER_LIMIT, str(error), headers={"Retry-After": str(seconds)})


def _summary(error: BadInput) -> str:
    count = len(error.problems) + error.more
    first = str(error.problems[0])
    return first if count == 1 else f"{first}; and {count - 1:,} more problems"


def unforeseen(error: Exception) -> HttpProblem:
    """What to say about an error that no endpoint expected. Tells nothing of the inside."""
    if isinstance(error, ClientDisconnect):
        return HttpProblem(BROKEN_BODY, CUT_OFF)
    if isinstance(error, Contended) or is_contended(error):
        words = str(error) if isinstance(error, Contended) else "another transaction is in the way"
        return HttpProblem(CONTENDED, f"{words}; try again", headers=RETRY_AFTER)
    if is_unavailable(error):
        return HttpProblem(NO_DATABASE, "Postgres does not answer; try again", headers=RETRY_AFTER)
    if lacks_schema(error):
        return HttpProblem(
            NOT_MIGRATED, "run `haulier migrate`, then try again", headers=RETRY_AFTER
        )
    if isinstance(error, (OSError, *STORAGE_ERRORS)):
        return HttpProblem(
            NO_STORAGE, "blob storage could not be read or written; try again", headers=RETRY_AFTER
        )
    return HttpProblem(INTERNAL, "the request failed; the service's log says why")


async def on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HttpProblem)
    return error.response()


async def on_bad_input(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BadInput)
    return bad_input(error).response()


async def on_http_exception(_request: Request, error: Exception) -> Response:
    """The framework's own errors: of the router, and of a body that it reads."""
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, HttpProblem):
        return error.__cause__.response()  # it came up while the framework read the body
    detail = str(error.detail)
    match error.status_code:
        case 400:
            # A body that the framework could not decode; one that broke off has no reader left.
            return invalid("the body is not JSON in UTF-8, or nests too deep").response()
        case 404:
            kind, detail = NOT_FOUND, "nothing is served at this path"
        case 405:
            kind, detail = WRONG_METHOD, "see the Allow header"
        case 413:
            kind = TOO_LARGE
        case status:
            phrase = HTTPStatus(status).phrase
            kind = Kind(phrase.lower().replace(" ", "-"), status, phrase)
    return HttpProblem(kind, detail, headers=error.headers).response()


async def on_bad_parameters(_request: Request, error: Exception) -> Response:
    """Query parameters that FastAPI refused."""
    assert isinstance(error, RequestValidationError)
    found = [
        Problem(f"{' '.join(map(str, one['loc']))}: {_said(one['type'], one['msg'])}")
        for one in error.errors()[:MOST_PROBLEMS]
    ]
    return bad_input(BadInput(found)).response()


def _said(kind: str, message: str) -> str:
    return _WORDS.get(kind, message.removeprefix("Value error, "))


_WORDS = {"extra_forbidden": "there is no such parameter"}
