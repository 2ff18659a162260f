"""HTTP connections to Together, and the errors that failed calls become.

Every failure is raised as an error of `service.rules.errors`, named for what to do about it.
"""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import httpx

from config import VERSION
from service.rules.errors import (
    AccountBlocked,
    Missing,
    QueueFull,
    RateLimited,
    Refused,
    Transient,
)
from service.rules.measures import OTHER, TOGETHER_CALLS, TOGETHER_SECONDS
from service.together.lenient import read_json, storable

USER_AGENT = f"haulier/{VERSION}"
"""Cloudflare in front of Together answers some default user agents with 403."""
T = TypeVar("T")

# A full queue at Together is backpressure, whatever its status code.
_FULL = ("queue is full", "enqueued tokens", "enqueued token limit", "too many batches")


class Pool(httpx.Client):
    """The connections of one process. Its calls are measured, each with its redirects."""

    def send(self, request: httpx.Request, **more: Any) -> httpx.Response:
        operation = operation_of(request.method, request.url.path)
        result = "unreachable"
        with TOGETHER_SECONDS.timed(operation):
            try:
                response = super().send(request, **more)
                result = _result(response.status_code)
            finally:
                TOGETHER_CALLS.count(operation, result)
        return response


_PATHS = {
    ("POST", "files"): "upload",
    ("POST", "files/preprocess"): "preprocess",
    ("GET", "files"): "file",
    ("GET", "files/content"): "content",
    ("DELETE", "files"): "delete_file",
    ("POST", "batches/cancel"): "cancel",
    ("GET", "batches"): "batch",
}
_LISTS = {"POST": "create", "GET": "batches"}


def operation_of(method: str, path: str) -> str:
    """Return the name of a call in the metrics. What goes to object storage is `put`."""
    if method == "PUT":
        return "put"
    kind, _, rest = path.rpartition("/v1/")[2].partition("/")
    _, _, verb = rest.partition("/")
    if kind == "batches" and not rest:
        return _LISTS.get(method, OTHER)
    return _PATHS.get((method, f"{kind}/{verb}".rstrip("/")), OTHER)


def _result(status: int) -> str:
    if status < 400:
        return "ok"
    if status == 429:
        return "limited"
    if status in {401, 402, 403}:
        return "blocked"
    return "refused" if status < 500 else "failed"


@cache
def trust() -> ssl.SSLContext:
    """Return the trusted certificates.

    Call it before a fork: reading them is slow, and otherwise every process would do it again.
    """
    return httpx.create_ssl_context()


def open_pool(timeout: timedelta) -> Pool:
    """Open a pool of connections. `timeout` bounds each wait (connect, write, read).

    Call it after a fork, never before.
    """
    return Pool(
        verify=trust(),
        timeout=httpx.Timeout(timeout.total_seconds(), connect=min(10, timeout.total_seconds())),
        limits=httpx.Limits(max_connections=16, max_keepalive_connections=8),
        headers={"User-Agent": USER_AGENT},
        follow_redirects=False,
    )


@contextmanager
def translated() -> Iterator[None]:
    """Turn httpx's errors into ours. Nothing was sent if, and only if, connecting failed."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise Transient(f"cannot reach Together: {_name(error)}", sent=False) from error
    except httpx.HTTPError as error:
        raise Transient(f"the connection to Together failed: {_name(error)}") from error
    except httpx.InvalidURL as error:
        raise Transient(f"Together redirected to an invalid URL: {error}") from error


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def checked(response: httpx.Response) -> httpx.Response:
    """Return the response if it is a success.

    Raises QueueFull, RateLimited, AccountBlocked, Missing, Refused or Transient.
    """
    if response.is_success:
        return response
    status = response.status_code
    words = _words(response)
    message = f"{status} {words or _unworded(response)}"
    lower = message.lower()
    if status < 500 and any(sign in lower for sign in _FULL):
        raise QueueFull(message, wait=_wait(response))
    if status == 429:
        raise RateLimited(message, wait=_wait(response))
    if status in {401, 402, 403}:
        # An upload beyond the free credit is answered with 401 (TOGETHER_API).
        raise AccountBlocked(message, spending=status == 402 or "trial credits" in lower)
    if words is None:
        # The answer comes from something in between, such as a proxy, so it proves nothing.
        raise Transient(message)
    if status == 404:
        raise Missing(message, status=status)
    if 400 <= status < 500 and status != 408:
        raise Refused(message, status=status)
    raise Transient(message)


def _words(response: httpx.Response) -> str | None:
    """Return Together's error message, in either of its two shapes.

    Returns None if the body has neither shape, so that Together did not write it.
    """
    try:
        body = read_json(response.content)
    except ValueError:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return storable(error, 1000) if error else None


def _unworded(response: httpx.Response) -> str:
    kind = response.headers.get("content-type", "no content type")
    return f"{response.reason_phrase} ({kind})"


def _wait(response: httpx.Response) -> timedelta | None:
    """Return how long a 429 asks to wait. Returns None for a `Retry-After` that is a date."""
    for header in ("x-ratelimit-reset", "retry-after"):
        try:
            seconds = float(response.headers[header])
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < 86_400:
            return timedelta(seconds=seconds)
    return None


def decoded(response: httpx.Response, read: Callable[[Any], T | None]) -> T:
    """Parse a JSON body with one of the readers of `wire`.

    Raises Transient if it is no JSON, or if the reader finds in it nothing of what was asked for.
    """
    found = read(parsed(response))
    if found is None:
        start = storable(response.text, 100)
        raise Transient(f"cannot read Together's answer: it does not show what was asked: {start}")
    return found


def parsed(response: httpx.Response) -> Any:
    """Parse a JSON body. Raises Transient if it is none."""
    try:
        return read_json(response.content)
    except ValueError as error:
        raise Transient(f"cannot read Together's answer: {error}") from error
