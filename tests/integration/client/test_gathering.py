"""Many calls as one job, by both kinds of client, and what is shown of it."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import haulier_client
import pytest
from haulier_client import AsyncClient, Client, Job, Result, plans

from tests.api import TOKEN, Api
from tests.eventually import eventually
from tests.factories import MODEL, final_lines, settlement
from tests.faults.proxy import Proxy

BODIES = [{"messages": [{"role": "user", "content": f"Say {number}"}]} for number in range(3)]
Gather = Callable[..., list[Result]]


def blocking(url: str, **more: Any) -> list[Result]:
    with Client(url, TOKEN) as haulier:
        return haulier.gather(BODIES, model=MODEL, poll=0.02, **more)


def with_asyncio(url: str, **more: Any) -> list[Result]:
    async def gathered() -> list[Result]:
        async with AsyncClient(url, TOKEN) as haulier:
            return await haulier.gather(BODIES, model=MODEL, poll=0.02, **more)

    return asyncio.run(gathered())


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


def complete(api: Api) -> UUID:
    """Bring the one job to its end: its last request has failed."""
    api.harness.let_in()
    (batch_id,) = api.harness.rows("SELECT id FROM haulier.batches")
    lines = [
        b'{"custom_id": "0", "response": {"body": {"choices": [{"message": {"content": "0"}}]}}}',
        b'{"custom_id": "1", "response": {"body": {"choices": [{"message": {"content": "1"}}]}}}',
        b'{"custom_id": "2", "error": {"code": "error", "message": "no"}, "attempts": 3}',
    ]
    stored = final_lines(api.blobs, f"lines/{batch_id}", list(enumerate(lines)))
    api.harness.settle(batch_id, settlement(2, dead=[2], final_lines=stored))
    job_id = api.harness.job_of(batch_id).id
    api.assemble(job_id)
    return job_id


@pytest.mark.parametrize("gather", [blocking, with_asyncio])
def test_gathered_calls_are_answered_in_their_order_whatever_breaks_meanwhile(
    api: Api, gather: Gather, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "PAUSES", (0.01,))
    seen: list[Job] = []
    with Proxy("127.0.0.1", urlsplit(api.url).port or 0) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        waiting = threads.submit(gather, url, progress=seen.append, idempotency_key="tonight")
        eventually(lambda: seen)
        with proxy.refusing():
            job_id = complete(api)
        results = waiting.result(timeout=60)
    assert [result.text for result in results] == ["0", "1", None]
    assert results[2].error is not None
    assert results[2].error.code == "error"
    assert {job.id for job in seen} == {job_id}
    # Whoever gathers the same again buys nothing.
    assert [result.raw for result in gather(api.url, idempotency_key="tonight")] == [
        result.raw for result in results
    ]
    assert api.harness.rows("SELECT count(*) FROM haulier.jobs") == [1]


def test_what_ends_a_gather_names_the_job_and_leaves_it_alone(
    api: Api, threads: ThreadPoolExecutor
) -> None:
    def stop(_: Job) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        blocking(api.url, progress=stop)
    (job_id,) = api.harness.rows("SELECT id FROM haulier.jobs")
    assert str(job_id) in stopped.value.__notes__[0]
    assert api.job(job_id)["state"] == "running"


def test_a_gather_of_nothing_makes_no_job(api: Api) -> None:
    with Client(api.url, TOKEN) as haulier:
        assert haulier.gather([]) == []
    assert api.harness.rows("SELECT count(*) FROM haulier.jobs") == [0]


@pytest.mark.parametrize("with_rich", [True, False])
def test_without_a_terminal_progress_is_shown_in_lines(
    api: Api,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    with_rich: bool,
) -> None:
    if not with_rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    waiting = threads.submit(blocking, api.url)
    eventually(lambda: api.harness.rows("SELECT id FROM haulier.jobs"))
    complete(api)
    assert len(waiting.result(timeout=60)) == 3
    assert capsys.readouterr().err == "3 of 3 calls are done\n"


def test_a_job_that_fails_as_a_whole_is_an_error(api: Api, threads: ThreadPoolExecutor) -> None:
    waiting: Future[list[Result]] = threads.submit(blocking, api.url, progress=False)
    eventually(lambda: api.harness.rows("SELECT id FROM haulier.jobs"))
    api.harness.run(
        "UPDATE haulier.jobs SET state = 'failed', error = 'no key', finished_at = now()"
    )
    with pytest.raises(haulier_client.Conflict, match="no key"):
        waiting.result(timeout=60)
