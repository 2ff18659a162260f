"""`call` of both kinds of client: one ordinary call, answered whatever breaks meanwhile."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import haulier_client
import pytest
from haulier_client import AsyncClient, Client, Result, calls

from tests.api import TOKEN, Api
from tests.eventually import eventually
from tests.factories import MODEL, final_lines, settlement
from tests.faults.proxy import Proxy

BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Say one"}]}
ANSWER = b'{"choices": [{"message": {"content": "one"}}]}'
Calling = Callable[..., Result]


def blocking(url: str, **more: Any) -> Result:
    with Client(url, TOKEN) as haulier:
        return haulier.call(BODY, **more)


def with_asyncio(url: str, **more: Any) -> Result:
    async def called() -> Result:
        async with AsyncClient(url, TOKEN) as haulier:
            return await haulier.call(BODY, **more)

    return asyncio.run(called())


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def held(api: Api) -> bool:
    """Whether the one call is stored."""
    return api.harness.rows("SELECT count(*) FROM haulier.jobs") == [1]


def settle(api: Api, *, error: str | None = None) -> UUID:
    """Bring the one call to its end."""
    api.harness.let_in()
    (batch_id,) = api.harness.rows("SELECT id FROM haulier.batches")
    line = b'{"custom_id": "call", "response": {"status_code": 200, "body": %s}}' % ANSWER
    if error is not None:
        told = f'{{"code": "{error}", "message": "no"}}'
        line = f'{{"custom_id": "call", "error": {told}, "attempts": 3}}'.encode()
    stored = final_lines(api.blobs, f"lines/{batch_id}", [(0, line)])
    dead = [] if error is None else [0]
    api.harness.settle(batch_id, settlement(1 - len(dead), dead=dead, final_lines=stored))
    return api.harness.job_of(batch_id).id


@pytest.mark.parametrize("call", [blocking, with_asyncio])
def test_a_call_whose_connections_break_is_answered_and_bought_once(
    api: Api, call: Calling, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "PAUSE", 0.05)
    with Proxy("127.0.0.1", urlsplit(api.url).port or 0) as proxy:
        waiting = threads.submit(call, f"http://127.0.0.1:{proxy.port}")
        eventually(lambda: held(api))
        proxy.cut()
        eventually(lambda: proxy.connected)
        with proxy.refusing():
            job_id = settle(api)
        result = waiting.result(timeout=60)
    assert (result.text, result.body) == ("one", {"choices": [{"message": {"content": "one"}}]})
    assert result.custom_id == str(job_id)
    assert held(api)


def test_a_key_finds_the_answer_again(api: Api, threads: ThreadPoolExecutor) -> None:
    waiting = threads.submit(blocking, api.url, idempotency_key="one")
    eventually(lambda: held(api))
    settle(api)
    assert waiting.result(timeout=60) == with_asyncio(api.url, idempotency_key="one")
    assert held(api)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("rate_limit_exceeded", 429, haulier_client.RateLimited),
        ("invalid_request_error", 400, haulier_client.ProblemError),
        ("server_error", 500, haulier_client.ProblemError),
    ],
)
def test_a_call_that_has_failed_raises_its_error_at_once(
    api: Api, threads: ThreadPoolExecutor, code: str, status: int, kind: type[Exception]
) -> None:
    waiting = threads.submit(blocking, api.url)
    eventually(lambda: held(api))
    settle(api, error=code)
    with pytest.raises(kind, match="no") as failed:
        waiting.result(timeout=60)
    assert isinstance(failed.value, haulier_client.ProblemError)
    assert (failed.value.status, failed.value.type) == (status, code)


def test_a_call_that_is_refused_says_why(api: Api) -> None:
    with Client(api.url, TOKEN) as haulier:
        with pytest.raises(haulier_client.ProblemError, match="model"):
            haulier.call({"messages": []})
        with pytest.raises(haulier_client.NotFound):
            haulier.call(BODY, endpoint="/v1/embeddings")
        with pytest.raises(ValueError, match="Out of range"):
            haulier.call({**BODY, "temperature": float("nan")})
    with Client(api.url, "wrong") as stranger, pytest.raises(haulier_client.Unauthorized):
        stranger.call(BODY)


def test_an_api_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PAUSE", 0.01)
    monkeypatch.setattr(calls, "PATIENCE", 0.1)
    with pytest.raises(haulier_client.Unreachable):
        blocking("http://127.0.0.1:1")
