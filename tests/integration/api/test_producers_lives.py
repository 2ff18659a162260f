"""Producers that are disabled, enabled again, and deleted."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import pytest
import structlog

from service.api import gate, watching
from service.api.v1 import progress
from service.rules.credentials import Scope, id_of
from service.store.producers import add_credential, add_producer, producer
from tests.api import Api, chat, jsonl, problem
from tests.eventually import eventually
from tests.factories import CHAT
from tests.integration.api.test_bodies import connected
from tests.integration.api.test_producers import as_bearer

PATH = "/v1/producers/billing"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (progress, watching):
        monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(gate, "LATER", 0.0)


@pytest.fixture
def billing(api: Api) -> Iterator[httpx.Client]:
    with as_bearer(api, add_producer(api.db, "billing").text) as client:
        yield client


def done(api: Api, verb: str, name: str = "billing") -> None:
    answer = api.http.post(f"/v1/producers/{name}/{verb}")
    assert answer.status_code == 200, answer.text
    assert (answer.json()["disabled_at"] is None) is (verb == "enable")


def test_a_disabled_producer_can_do_nothing_until_it_is_enabled(
    api: Api, billing: httpx.Client
) -> None:
    job = billing.post("/v1/jobs", json=chat("a")).json()["id"]

    done(api, "disable")

    since = api.http.get(PATH).json()["disabled_at"]
    for answer in (billing.get(f"/v1/jobs/{job}"), billing.post("/v1/jobs", json=chat("b"))):
        assert "disabled" in problem(answer, 401)["detail"]
    assert billing.get(f"{api.url}/together/v1/files").status_code == 401
    assert api.http.get(f"/v1/jobs/{job}").json()["state"] == "running"
    done(api, "disable")
    assert api.http.get(PATH).json()["disabled_at"] == since
    done(api, "enable")
    assert billing.post("/v1/jobs", json=chat("b")).status_code == 201


def test_its_streams_end_at_once(api: Api, billing: httpx.Client) -> None:
    job = billing.post("/v1/jobs", json=chat("a")).json()["id"]
    with structlog.testing.capture_logs() as logged:
        with billing.stream("GET", f"/v1/jobs/{job}/progress") as told:
            lines = told.iter_lines()
            assert next(lines) == "event: progress"
            done(api, "disable")
            assert not [line for line in lines if line.startswith("event:")]
        # Even one that lost its right before it looked for the end of its client ends in order.
        assert not [line for line in logged if line["event"] == "request_failed"]


def test_a_body_that_is_still_arriving_is_refused_at_once(api: Api, billing: httpx.Client) -> None:
    content = jsonl("a") * 20_000  # more than a block, so that some of it is written by now
    beginning = (
        f"POST /v1/jobs?endpoint={CHAT} HTTP/1.1\r\nHost: haulier\r\n"
        f"Authorization: {billing.headers['authorization']}\r\n"
        "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"{len(content):x}\r\n"
    )
    at = urlsplit(api.url)
    folder = Path(unquote(urlsplit(api.blobs.url).path))
    with socket.create_connection((at.hostname, at.port), timeout=30) as connection:
        connection.sendall(beginning.encode() + content + b"\r\n")
        eventually(lambda: [path for path in folder.rglob("*") if path.is_file()])
        done(api, "disable")
        assert connection.recv(100).startswith(b"HTTP/1.1 401 ")
    assert api.http.get("/v1/jobs", params={"producer": "billing"}).json()["data"] == []


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/v1/jobs", "application/json", json.dumps(chat("a")).encode()),
        ("/v1/producers", "application/json", b'{"name": "mine"}'),
        ("/v1/producers/billing/tokens", "application/json", b'{"scopes": ["admin"]}'),
        ("/together/v1/files", "application/x-www-form-urlencoded", b"purpose=batch-api"),
        ("/together/v1/batches", "application/json", b'{"input_file_id": "f", "endpoint": "e"}'),
    ],
)
def test_a_body_that_was_begun_in_time_does_nothing_once_its_token_is_revoked(
    api: Api, billing: httpx.Client, path: str, kind: str, body: bytes
) -> None:
    token = add_credential(api.db, "billing", scopes=[Scope.ADMIN]).text
    known = everything(api)
    with connected(api.url) as connection:
        fields = f"Host: here\r\nAuthorization: Bearer {token}\r\nContent-Type: {kind}\r\n"
        length = f"Content-Length: {len(body)}\r\n\r\n"
        # The API asks for the body only once it has let the caller in.
        connection.sendall(
            f"POST {path} HTTP/1.1\r\n{fields}Expect: 100-continue\r\n{length}".encode()
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        revoked = api.http.delete(f"{PATH}/tokens/{id_of(token)}")
        assert revoked.status_code == 204

        connection.sendall(body)

        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
    assert everything(api) == known


def everything(api: Api) -> list[int]:
    """How many jobs, producers and tokens there are."""
    tables = (
        api.http.get("/v1/jobs"),
        api.http.get("/v1/producers"),
        api.http.get(f"{PATH}/tokens"),
    )
    return [len(table.json()["data"]) for table in tables]


def test_the_operators_own_submissions_for_a_disabled_default_are_refused(api: Api) -> None:
    done(api, "disable", "default")
    for answer in (
        api.http.post("/v1/jobs", json=chat("a")),
        api.http.post("/v1/jobs", json=chat("a", idempotency_key="k")),
    ):
        found = problem(answer, 409)
        assert found["type"] == "urn:haulier:problem:producer-disabled"
        assert "'default' is disabled" in found["detail"]


def test_a_producer_is_deleted_when_it_is_empty(api: Api, billing: httpx.Client) -> None:
    billing.post("/v1/jobs", json=chat("a"))
    billing.post("/v1/jobs", json=chat("b"))

    found = problem(api.http.delete(PATH), 409)

    assert found["type"] == "urn:haulier:problem:producer-in-use"
    assert "2 jobs" in found["detail"]
    assert "HAULIER_RETENTION_DAYS" in found["detail"]
    api.harness.run("DELETE FROM haulier.jobs")
    assert api.http.delete(PATH).status_code == 204
    problem(api.http.delete(PATH), 404)
    problem(billing.get("/v1/jobs"), 401)
    assert producer(api.db, "billing") is None
    assert api.http.post("/v1/producers", json={"name": "billing"}).status_code == 201


def test_the_default_producer_stays(api: Api) -> None:
    assert "disable it" in problem(api.http.delete("/v1/producers/default"), 409)["detail"]


def test_a_transaction_of_the_producers_own_does_not_hold_up_the_operator_for_long(
    api: Api, billing: httpx.Client
) -> None:
    with api.db.begin() as session:
        session.connection().exec_driver_sql(
            "SELECT FROM haulier.producers WHERE name = 'billing' FOR KEY SHARE"
        )
        done(api, "disable")
        found = problem(api.http.delete(PATH), 503)
    assert found["type"] == "urn:haulier:problem:contended"
    assert api.http.delete(PATH).status_code == 204
