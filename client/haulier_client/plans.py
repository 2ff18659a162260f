"""What is sent, and what comes of the answers: written once for both kinds of client.

A plan is a generator: it yields a call to be made, or seconds to sleep, and gets the answer back.
"""

import json
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sized,
)
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx

from haulier_client.errors import NotHaulier, Unavailable, Unreachable, WaitTimeout, problem_of
from haulier_client.views import Job, read_job

T = TypeVar("T")
Requests = Iterable[dict[str, Any]]

BLOCK_BYTES = 65_536
PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between attempts at what is safe to repeat."""

TIMEOUT = httpx.Timeout(30)
# The answer to a submission comes when all of it is checked and stored.
SUBMIT_TIMEOUT = httpx.Timeout(60, read=600)


@dataclass(frozen=True)
class Call:
    """One call. `content` makes its body anew for each attempt."""

    method: str
    path: str
    params: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    content: Callable[[], Any] | None = None
    timeout: httpx.Timeout = field(default_factory=lambda: TIMEOUT)
    repeatable: bool = True

    def arguments(self) -> dict[str, Any]:
        content = self.content() if self.content is not None else None
        shared = {"params": self.params, "headers": self.headers, "timeout": self.timeout}
        return {"method": self.method, "url": self.path, "content": content, **shared}


Plan = Generator[Call | float, httpx.Response | httpx.TransportError | None, T]


def _answered(call: Call) -> Plan[dict[str, Any]]:
    """Make a call and return the JSON object that answers it."""
    return _document((yield from answered(call)))


def answered(call: Call) -> Plan[httpx.Response]:
    """Make a call and return its answer. Repeat the call if that is safe and may help."""
    for pause in (*(PAUSES if call.repeatable else ()), None):
        answer = yield call
        if isinstance(answer, httpx.Response):
            if answer.is_success:
                return answer
            error = problem_of(answer)
            if pause is None or not isinstance(error, Unavailable):
                raise error
        elif pause is None:
            raise Unreachable(f"{call.method} {call.path}: {answer!r}") from answer
        yield pause
    raise AssertionError("the last attempt returns or raises")


def _document(answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise NotHaulier(f"{answer.url} did not answer with a JSON object: is this Haulier's URL?")
    return document


def id_of(job: Job | UUID | str) -> UUID:
    return job.id if isinstance(job, Job) else UUID(str(job))


def request(
    method: str,
    path: str,
    *,
    params: Mapping[str, Any] | None,
    headers: Mapping[str, str] | None,
    content: bytes | Iterable[bytes] | None,
    timeout: float | None,
    repeatable: bool,
) -> Plan[httpx.Response]:
    """Any call of the API. A `timeout` of None is that of a submission if there is content."""
    if timeout is None:
        limits = TIMEOUT if content is None else SUBMIT_TIMEOUT
    else:
        limits = httpx.Timeout(timeout)
    call = Call(
        method,
        path,
        params={name: value for name, value in (params or {}).items() if value is not None},
        headers=dict(headers or {}),
        content=None if content is None else lambda: content,
        timeout=limits,
        repeatable=repeatable,
    )
    return answered(call)


def show(job: Job | UUID | str) -> Plan[Job]:
    return read_job((yield from _answered(Call("GET", f"/v1/jobs/{id_of(job)}"))))


Page = tuple[list[dict[str, Any]], dict[str, Any] | None]
"""The rows, and the parameters of the next page: None after the last."""


def page_of(path: str, params: dict[str, Any]) -> Plan[Page]:
    page = yield from _answered(Call("GET", path, params))
    cursor = page["next_cursor"]
    return page["data"], {**params, "cursor": cursor} if cursor is not None else None


def post(path: str, body: dict[str, Any], *, repeatable: bool) -> Plan[Job]:
    content, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    call = Call("POST", path, headers=headers, content=lambda: content, repeatable=repeatable)
    return read_job((yield from _answered(call)))


def cancel(job: Job | UUID | str) -> Plan[Job]:
    return post(f"/v1/jobs/{id_of(job)}/cancel", {}, repeatable=True)


def release(job: Job | UUID | str, max_cost: object) -> Plan[Job]:
    body = {} if max_cost is None else {"max_cost": str(max_cost)}
    return post(f"/v1/jobs/{id_of(job)}/release", body, repeatable=False)


def retry(job: Job | UUID | str, custom_ids: Iterable[str] | None) -> Plan[Job]:
    body = {} if custom_ids is None else {"custom_ids": list(custom_ids)}
    return post(f"/v1/jobs/{id_of(job)}/retry", body, repeatable=False)


def wait(job: Job | UUID | str, timeout: float | None, poll: float) -> Plan[Job]:
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        shown = yield from show(job)
        if shown.ended:
            return shown
        left = poll if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise WaitTimeout(
                f"job {shown.id} is {shown.state}, {shown.pending:,} requests are pending"
            )
        yield min(poll, left)


def submit_spec(spec: dict[str, Any]) -> Plan[Job]:
    content = json.dumps(spec | _deadline(spec), allow_nan=False).encode()
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": spec.get("idempotency_key") or str(uuid4()),
    }
    call = Call(
        "POST", "/v1/jobs", headers=headers, content=lambda: content, timeout=SUBMIT_TIMEOUT
    )
    return read_job((yield from _answered(call)))


def submit(
    content: Callable[[], Any], fields: dict[str, Any], *, again: bool, key: str | None
) -> Plan[Job]:
    """`again`: whether the content can be made a second time."""
    key = key or (str(uuid4()) if again else None)
    params = {name: value for name, value in fields.items() if value is not None}
    params |= _deadline(params)
    for name in ("metadata", "notify", "check"):
        if name in params and not isinstance(params[name], str):
            params[name] = json.dumps(params[name], allow_nan=False)
    headers = {"Content-Type": "application/x-ndjson"}
    if key is not None:
        headers["Idempotency-Key"] = key
    call = Call(
        "POST", "/v1/jobs", params, headers, content, timeout=SUBMIT_TIMEOUT, repeatable=again
    )
    return read_job((yield from _answered(call)))


def _deadline(fields: dict[str, Any]) -> dict[str, Any]:
    """The deadline as it is sent. Raises ValueError for a datetime without a zone."""
    given = fields.get("deadline")
    if isinstance(given, timedelta):
        return {"deadline": given.total_seconds()}
    if isinstance(given, datetime):
        if given.tzinfo is None:
            raise ValueError("deadline: a datetime must have its zone (tzinfo)")
        return {"deadline": given.isoformat()}
    return {}


def _line(request: dict[str, Any], model: str | None) -> bytes:
    if model is not None:
        body = {"model": model, **request.get("body", {})}
        if body["model"] is None:
            body["model"] = model
        request = {**request, "body": body}
    return json.dumps(request, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def blocks(requests: Requests, model: str | None) -> Iterator[bytes]:
    """Request lines, some at a time."""
    block = bytearray()
    for request in requests:
        block += _line(request, model)
        if len(block) >= BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    yield bytes(block)


async def async_blocks(
    requests: Requests | AsyncIterable[dict[str, Any]], model: str | None
) -> AsyncIterator[bytes]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield _line(request, model)
        return
    for block in blocks(requests, model):
        yield block


def is_there_again(requests: object) -> bool:
    """Whether it can be gone through once more, unlike a generator, a file or a cursor.

    What has no length may be a source that gives each row once, through a new iterator each time.
    """
    return isinstance(requests, Sized) and not isinstance(requests, Iterator)
