"""Limits of a producer: counted exactly, refused with when to come back, and nobody else's."""

import asyncio
import gzip
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import httpx
import pytest

from config.settings import Settings
from service.api.gathering import Accepted, Gathering
from service.api.turns import Turns
from service.payloads.blobs import Blobs
from service.rules.errors import OverQuota
from service.rules.outcomes import Split
from service.rules.spec import Spec
from service.rules.states import Stage
from service.store import engine
from service.store.producers import add_producer
from service.store.submit import Submission
from tests.api import Api, chat, jsonl, problem
from tests.factories import (
    CHAT,
    Harness,
    shard,
    spec,
    submit,
)
from tests.integration.api.test_producers import as_bearer


@pytest.fixture
def harness(database_url: str) -> Iterator[Harness]:
    made = engine.create(database_url, pool_size=2)
    yield Harness(engine.database(made))
    made.dispose()


@pytest.fixture
def billing(api: Api) -> Iterator[httpx.Client]:
    """A producer without limits."""
    with as_bearer(api, add_producer(api.db, "billing").text) as client:
        yield client


def limit(api: Api, **limits: int | None) -> None:
    assert api.http.patch("/v1/producers/billing", json=limits).status_code == 200


def counted(api: Api) -> int:
    number: int = api.http.get("/v1/producers/billing").json()["counted_requests"]
    return number


def post_jsonl(client: httpx.Client, content: Any, **query: str) -> httpx.Response:
    return client.post(
        "/v1/jobs",
        params={"endpoint": CHAT, **query},
        content=content,
        headers={"Content-Type": "application/x-ndjson"},
    )


def test_a_days_requests_are_refused_until_midnight(api: Api, billing: httpx.Client) -> None:
    limit(api, requests_per_day=5)
    assert billing.post("/v1/jobs", json=chat("a", "b", "c")).status_code == 201

    refused = billing.post("/v1/jobs", json=chat("a", "b", "c"))

    assert problem(refused, 429)["type"] == "urn:haulier:problem:over-limit"
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert post_jsonl(billing, jsonl("a", "b")).status_code == 201
    assert problem(post_jsonl(billing, jsonl("a")), 429)
    assert counted(api) == 5
    api.harness.run("UPDATE haulier.producers SET counted_on = counted_on - 1")
    assert billing.post("/v1/jobs", json=chat("a")).status_code == 201
    assert counted(api) == 1


def test_what_is_never_going_to_fit_is_too_large(api: Api, billing: httpx.Client) -> None:
    limit(api, requests_per_day=2)
    problem(billing.post("/v1/jobs", json=chat("a", "b", "c")), 413)
    limit(api, requests_per_day=None, open_requests=2)
    problem(billing.post("/v1/jobs", json=chat("a", "b", "c")), 413)


def test_open_requests_make_room_when_they_are_done(api: Api, billing: httpx.Client) -> None:
    limit(api, open_requests=4)
    job = billing.post("/v1/jobs", json=chat("a", "b", "c")).json()["id"]

    refused = billing.post("/v1/jobs", json=chat("d", "e"))

    assert problem(refused, 429)
    assert int(refused.headers["retry-after"]) == 60
    api.harness.run(
        "UPDATE haulier.jobs SET pending = 1, succeeded = total - 1 WHERE id = :id", id=job
    )
    assert billing.post("/v1/jobs", json=chat("d", "e")).status_code == 201


def test_a_repeated_submission_is_neither_counted_nor_refused(
    api: Api, billing: httpx.Client
) -> None:
    limit(api, requests_per_day=2, open_requests=2)
    first = billing.post("/v1/jobs", json=chat("a", "b", idempotency_key="k"))
    assert first.status_code == 201

    for _ in range(3):
        again = billing.post("/v1/jobs", json=chat("a", "b", idempotency_key="k"))
        assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    problem(billing.post("/v1/jobs", json=chat("x", idempotency_key="k")), 409)
    assert counted(api) == 2


def test_many_at_once_get_in_up_to_the_limit_and_not_one_more(
    api: Api, billing: httpx.Client
) -> None:
    limit(api, requests_per_day=10, open_requests=12)

    def one(number: int) -> int:
        if number % 2:
            return post_jsonl(billing, jsonl("a")).status_code
        return billing.post("/v1/jobs", json=chat("a")).status_code

    with ThreadPoolExecutor(10) as pool:
        found = sorted(pool.map(one, range(30)))

    assert found == [201] * 10 + [429] * 20
    assert counted(api) == 10
    assert len(billing.get("/v1/jobs").json()["data"]) == 10


def test_a_body_that_is_too_large_is_refused_while_it_arrives(
    api: Api, billing: httpx.Client
) -> None:
    limit(api, body_bytes=1000)
    assert billing.post("/v1/jobs", json=chat("a")).status_code == 201
    assert problem(billing.post("/v1/jobs", json=chat("a" * 64, metadata={"x": "y" * 1000})), 413)
    unfinished = (
        f"POST /v1/jobs?endpoint={CHAT} HTTP/1.1\r\nHost: haulier\r\n"
        f"Authorization: {billing.headers['authorization']}\r\n"
        "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"3e9\r\n{'x' * 1001}\r\n"
    )
    at = urlsplit(api.url)
    with socket.create_connection((at.hostname, at.port), timeout=30) as connection:
        connection.sendall(unfinished.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")
    assert len(billing.get("/v1/jobs").json()["data"]) == 1


@pytest.mark.parametrize("coding", ["gzip", "identity"])
def test_the_bound_of_a_body_counts_what_is_unpacked(
    api: Api, billing: httpx.Client, coding: str
) -> None:
    limit(api, body_bytes=10_000)
    packed = gzip.compress(b"".join(jsonl(f"r{number}") for number in range(1000)))
    assert len(packed) < 10_000
    headers = {"Content-Type": "application/x-ndjson", "Content-Encoding": coding}
    answer = billing.post("/v1/jobs", content=packed, params={"endpoint": CHAT}, headers=headers)
    assert "unpacks to more than 10,000 bytes" in problem(answer, 413)["detail"]


def test_what_is_refused_or_there_already_leaves_no_bytes(api: Api, billing: httpx.Client) -> None:
    limit(api, requests_per_day=200)
    folder = Path(unquote(urlsplit(api.blobs.url).path))
    ids = [f"{number:0>64}" for number in range(200)]
    # Too much to share a blob with others.
    large = {**chat(*ids, idempotency_key="k"), "metadata": {"x": "y" * 9_000}}
    large["requests"] += chat("z" * 64)["requests"] * 500

    def kept() -> list[Path]:
        return [path for path in folder.rglob("*") if path.is_file()]

    refused = [
        post_jsonl(billing, jsonl(*ids, "one more")),
        post_jsonl(billing, jsonl("a", "b", "a")),
        post_jsonl(billing, jsonl("a") + b"{"),
        billing.post("/v1/jobs", json=large),
    ]
    assert [answer.status_code for answer in refused] == [413, 422, 422, 422]
    assert kept() == []

    answers = [post_jsonl(billing, jsonl(*ids), idempotency_key="k") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert post_jsonl(billing, jsonl("x"), idempotency_key="k").status_code == 409
    assert post_jsonl(billing, jsonl("x")).status_code == 429
    (blob,) = kept()
    assert answers[0].json()["id"] in str(blob)


def test_one_over_its_limit_does_not_fail_the_others_of_its_page(
    harness: Harness, tmp_path: Path
) -> None:
    add_producer(harness.db, "small", requests_per_day=2)
    add_producer(harness.db, "other", open_requests=100)
    names = ["small", "default", "small", "small", "other"]
    page = [Submission(id=uuid4(), producer=name, spec=spec("a")) for name in names]

    async def at_once() -> list[Accepted | BaseException]:
        gathering = Gathering(harness.db, Blobs(tmp_path.as_uri()), Settings(), Turns())
        return await asyncio.gather(*map(gathering.submit, page), return_exceptions=True)

    answers = asyncio.run(at_once())

    small = [answer for answer, name in zip(answers, names, strict=True) if name == "small"]
    assert [isinstance(answer, Accepted) for answer in small].count(True) == 2
    (error,) = [answer for answer in small if isinstance(answer, OverQuota)]
    assert error.wait is not None
    assert timedelta(0) < error.wait <= timedelta(days=1)
    assert isinstance(answers[1], Accepted)
    assert isinstance(answers[4], Accepted)
    assert len(harness.rows("SELECT id FROM haulier.jobs")) == 4


def test_an_input_is_counted_when_it_is_read(harness: Harness) -> None:
    add_producer(harness.db, "small", requests_per_day=10)
    asked = Spec(endpoint=CHAT, input="file:///in.jsonl")
    submit(harness.db, [Submission(id=(job_id := uuid4()), producer="small", spec=asked)])

    harness.apply(harness.claim_job(job_id, Stage.SPLIT), Split((shard(7),)))

    (late,) = harness.rows("SELECT counted_requests FROM haulier.producers WHERE name = 'small'")
    assert late == 7
