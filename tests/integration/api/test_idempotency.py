"""Fifty at once with one key: one job, whichever way they come."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx
import pytest

from config.settings import Settings
from service.store import jobs
from service.store.producers import add_producer
from tests.api import Api, chat, jsonl, problem
from tests.factories import CHAT
from tests.integration.api.test_producers import as_bearer
from tests.integration.workers.test_inbox import WatchedInbox, send_as

FIFTY = 50
QUERY = {"endpoint": CHAT, "idempotency_key": "nightly"}
JSONL = {"Content-Type": "application/x-ndjson"}


def streamed(*custom_ids: str) -> Iterator[bytes]:
    for custom_id in custom_ids:
        yield jsonl(custom_id)


def fifty(api: Api, post: Any, **limits: int) -> list[httpx.Response]:
    """Answers to one producer that asks so often at the same time."""
    start = Barrier(FIFTY)
    with as_bearer(api, add_producer(api.db, "billing", **limits).text) as billing:
        billing.timeout = httpx.Timeout(60)

        def one(number: int) -> httpx.Response:
            start.wait(timeout=30)
            answer: httpx.Response = post(billing, number)
            return answer

        with ThreadPoolExecutor(FIFTY) as pool:
            return list(pool.map(one, range(FIFTY)))


def as_json(client: httpx.Client, _number: int) -> httpx.Response:
    return client.post("/v1/jobs", json=chat("a", "b", idempotency_key="nightly"))


def as_large_json(client: httpx.Client, _number: int) -> httpx.Response:
    """Too large for the page that small ones share."""
    spec = chat("a")
    spec["requests"][0]["body"]["messages"][0]["content"] = "x" * 70_000
    return client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "nightly"})


def as_lines(client: httpx.Client, _number: int) -> httpx.Response:
    return client.post("/v1/jobs", params=QUERY, content=streamed("a", "b"), headers=JSONL)


@pytest.mark.parametrize("post", [as_json, as_large_json, as_lines])
def test_fifty_at_once_with_one_key_make_one_job(api: Api, post: Any) -> None:
    answers = fifty(api, post, requests_per_day=2)

    assert sorted({answer.status_code for answer in answers}) == [200, 201], answers[0].text
    assert [answer.status_code for answer in answers].count(201) == 1
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(jobs.jobs(api.db, producer="billing", limit=10)) == 1


def test_of_two_contents_at_once_one_wins_and_the_other_is_refused(api: Api) -> None:
    def either(client: httpx.Client, number: int) -> httpx.Response:
        lines = streamed("a", "b" if number % 2 else "c")
        return client.post("/v1/jobs", params=QUERY, content=lines, headers=JSONL)

    answers = fifty(api, either)

    codes = [answer.status_code for answer in answers]
    assert (codes.count(201), codes.count(200), codes.count(409)) == (1, 24, 25)
    for answer in answers:
        if answer.status_code == 409:
            assert problem(answer, 409)["type"] == "urn:haulier:problem:idempotency-key-reused"
    assert len(jobs.jobs(api.db, producer="billing", limit=10)) == 1


def test_a_key_is_one_job_over_http_and_on_the_queue(
    api: Api, api_settings: Settings, redis_url: str
) -> None:
    spec = chat("a", "b", idempotency_key="nightly")
    with as_bearer(api, add_producer(api.db, "billing").text) as billing:
        first = billing.post("/v1/jobs", json=spec)
        assert first.status_code == 201
    sent = send_as(redis_url, "billing", *[spec] * FIFTY)
    assert len(set(sent)) == FIFTY

    settings = api_settings.model_copy(update={"redis_url": redis_url})
    WatchedInbox(settings, FIFTY).read_all()

    (job,) = jobs.jobs(api.db, producer="billing", limit=10)
    assert str(job.id) == first.json()["id"]
