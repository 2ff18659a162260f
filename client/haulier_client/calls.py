"""One ordinary call through Haulier, repeated under its key until it is answered."""

import json
import time
from typing import Any
from uuid import uuid4

import httpx

from haulier_client.errors import NotHaulier, Unreachable, problem_of
from haulier_client.gathering import PATIENCE
from haulier_client.plans import Call, Plan
from haulier_client.views import Result

SIGN_SECONDS = 15.0
"""While a call waits, blank lines come this often."""
TIMEOUT = httpx.Timeout(4 * SIGN_SECONDS)
PAUSE = 1.0
"""Seconds before a call is repeated that nobody told when."""
ONCE_MORE = frozenset({408, 425, 429, 502, 503, 504})
"""Statuses after which the same call, under the same key, may be answered."""
JOB = "haulier-job"
"""The header with the call's job."""


def call(body: dict[str, Any], endpoint: str, key: str | None) -> Plan[Result]:
    """Make a call, and make it again until it has its answer or its own error.

    Raises what keeps it from being answered, once nothing else has happened for `PATIENCE`.
    """
    content = json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    asked = Call(
        "POST",
        f"/together{endpoint}",
        headers={"Content-Type": "application/json", "Idempotency-Key": key or str(uuid4())},
        content=lambda: content,
        timeout=TIMEOUT,
    )
    heard_at = time.monotonic()
    while True:
        asked_at = time.monotonic()
        answer = yield asked
        if isinstance(answer, httpx.Response):
            if answer.is_success:
                return _result(answer)
            error = problem_of(answer)
            is_over = JOB in answer.headers and answer.status_code != 408
            if is_over or answer.status_code not in ONCE_MORE:
                raise error
        else:
            error = Unreachable(f"POST {asked.path}: {answer!r}")
            error.__cause__ = answer
        silent = 4 * SIGN_SECONDS if isinstance(answer, httpx.TimeoutException) else 0.0
        was_held = time.monotonic() - asked_at - silent > SIGN_SECONDS
        if was_held or (isinstance(answer, httpx.Response) and answer.status_code == 408):
            heard_at = time.monotonic() - silent
        if time.monotonic() - heard_at > PATIENCE:
            raise error
        yield error.retry_after or PAUSE


def _result(answer: httpx.Response) -> Result:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise NotHaulier(f"{answer.url} did not answer a call: is this Haulier's URL?")
    return Result(answer.headers.get(JOB, ""), body, None, body)
