"""What is said here when something is not done: errors in Together's form, which its SDK reads."""

from collections.abc import Mapping

import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.api.problems import (
    INVALID,
    NOT_FOUND,
    WRONG_METHOD,
    HttpProblem,
    bad_input,
    unforeseen,
)
from service.rules.errors import BadInput

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
_WORTH_ANOTHER_TRY = frozenset({408, 429})
"""Below 500. The SDK would also repeat a 409, for nothing but the seconds that it takes."""


def refused(message: str, *, param: str | None = None) -> HttpProblem:
    """What was asked for cannot be done (400)."""
    return HttpProblem(INVALID, message, param=param)


def not_found(what: str) -> HttpProblem:
    return HttpProblem(NOT_FOUND, f"{what} not found")


def error(
    status: int,
    message: str,
    *,
    code: str,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """`code` is the end of the type of the problem that the rest of the API would have told."""
    body = {
        "message": message,
        "type": _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error"),
        "param": param,
        "code": code,
    }
    again = status >= 500 or status in _WORTH_ANOTHER_TRY
    return Response(
        msgspec.json.encode({"error": body}),
        status_code=status,
        media_type="application/json",
        headers={"x-should-retry": str(again).lower(), **(headers or {})},
    )


def told(problem: HttpProblem) -> Response:
    """A problem in Together's form."""
    # Together knows no 422.
    status = 400 if problem.kind is INVALID else problem.kind.status
    param = problem.extras.get("param")
    return error(
        status,
        problem.detail,
        code=problem.kind.slug.replace("-", "_"),
        param=param if isinstance(param, str) else None,
        headers=problem.headers,
    )


async def on_problem(_request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HttpProblem)
    return told(problem)


async def on_bad_input(_request: Request, found: Exception) -> Response:
    assert isinstance(found, BadInput)
    return told(bad_input(found))


async def on_http_exception(_request: Request, found: Exception) -> Response:
    """The router's own errors, and forms that cannot be read."""
    assert isinstance(found, HTTPException)
    if isinstance(found.__cause__, HttpProblem):
        return told(found.__cause__)  # it came up while the framework read the body
    match found.status_code:
        case 404:
            problem = HttpProblem(NOT_FOUND, "nothing is served at this path")
        case 405:
            problem = HttpProblem(WRONG_METHOD, "see the Allow header", headers=found.headers)
        case _:
            problem = refused(str(found.detail))
    return told(problem)


async def on_bad_parameters(_request: Request, found: Exception) -> Response:
    assert isinstance(found, RequestValidationError)
    wrong = found.errors()[0]
    name = str(wrong["loc"][-1])
    return told(refused(f"{name}: {wrong['msg']}", param=name))


async def on_unforeseen(_request: Request, found: Exception) -> Response:
    """It is logged further out (service.api.access_log)."""
    return told(unforeseen(found))
