"""The HTTP API in tests: as a process of its own, or in a thread of this one."""

import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest

from config.settings import Settings
from service.api.server import Server, listening, url_of
from service.payloads.blobs import Blobs
from service.payloads.results import assembled
from service.rules.outcomes import Assembled
from service.rules.states import Stage
from service.store import engine
from tests.eventually import eventually
from tests.factories import CHAT, Harness, chat_line, chat_request
from tests.processes import Processes, Running
from tests.servers import Databases

TOKEN = "test-admin-token-for-all"
_SETTINGS = {
    "admin_token": TOKEN,
    "failed_logins_per_minute": 100_000,  # all of them come from one address
}


def client(url: str) -> httpx.Client:
    """A client that shows the token, and takes answers as they are unless it says otherwise."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept-Encoding": "identity"}
    # Reading the certificates of the world costs more than most tests: all here is plain HTTP.
    return httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False, verify=False)


@dataclass(frozen=True)
class Api:
    """A running API and what it stands on."""

    url: str
    http: httpx.Client
    db: engine.Database
    blobs: Blobs

    @property
    def harness(self) -> Harness:
        """Rows behind it, to be moved as workers move them."""
        return Harness(self.db)

    def submit(self, *custom_ids: str, **fields: Any) -> UUID:
        """A new job of chat requests."""
        answer = self.http.post("/v1/jobs", json=chat(*(custom_ids or ("a", "b", "c")), **fields))
        assert answer.status_code == 201, answer.text
        return UUID(answer.json()["id"])

    def assemble(self, job_id: UUID) -> None:
        """Put the results of a job together, if that is still to be done."""
        if self.harness.job(job_id).finished_at is None:
            claim = self.harness.claim_job(job_id, Stage.ASSEMBLE)
            segments = assembled(self.blobs, f"jobs/{job_id}/{claim.lease}", claim.final_lines)
            self.harness.apply(claim, Assembled(segments))

    def job(self, job_id: UUID) -> dict[str, Any]:
        answer = self.http.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown


def started_url(process: Running) -> str:
    """Where an `api` process listens, once it does."""

    def found() -> str:
        assert process.alive, process.output
        said = re.search(r'"url": "(http://[^"]+)"', process.output)
        return said[1] if said else ""

    return eventually(found)


@pytest.fixture
def api_process(processes: Processes) -> Running:
    """`haulier api` on a free port, listening. It has no Redis to talk to."""
    process = processes.haulier("api", "--port", "0", REDIS_URL="redis://127.0.0.1:1/0")
    started_url(process)
    return process


@pytest.fixture
def api_settings(runtime_url: str, blob_url: str) -> Settings:
    """For an API in this process."""
    return Settings.model_validate({"DATABASE_URL": runtime_url, "blob_url": blob_url, **_SETTINGS})


@pytest.fixture
def api(api_settings: Settings) -> Iterator[Api]:
    """The API in a thread of this process, and its parts."""
    with serving(api_settings) as running:
        yield running


@pytest.fixture(scope="module")
def refusing_api(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One API for many tests that leave no job behind."""
    owners_url = databases.create()
    url = databases.runtime(owners_url)
    blob_url = tmp_path_factory.mktemp("blobs").as_uri()
    settings = Settings.model_validate({"DATABASE_URL": url, "blob_url": blob_url, **_SETTINGS})
    with serving(settings) as running:
        yield running
    databases.give_back(owners_url)


@contextmanager
def serving(settings: Settings) -> Iterator[Api]:
    """The API around some settings."""
    server = Server(settings)
    connections = engine.create(settings.database_url or "", pool_size=2)
    with listening("127.0.0.1", 0) as listener:
        url = url_of(listener)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            eventually(lambda: server.started)
            with client(url) as http:
                yield Api(url, http, engine.database(connections), Blobs(settings.blobs))
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            connections.dispose()


def jsonl(*custom_ids: str) -> bytes:
    """Chat requests as JSONL."""
    return b"".join(chat_line(custom_id) + b"\n" for custom_id in custom_ids)


def chat(*custom_ids: str, **fields: Any) -> dict[str, Any]:
    """A spec of chat requests, as JSON takes it."""
    requests = [chat_request(custom_id) for custom_id in custom_ids]
    return {"endpoint": CHAT, "requests": requests, **fields}


def post_lines(api: Api, content: bytes | Iterable[bytes], **query: Any) -> httpx.Response:
    """Submit JSONL; `endpoint` is chat unless said otherwise."""
    return api.http.post(
        "/v1/jobs",
        params={"endpoint": CHAT, **query},
        content=content,
        headers={"Content-Type": "application/x-ndjson"},
    )


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of an answer, once it is certain that it is one."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["type"].startswith("urn:haulier:problem:")
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    return document


def messages(answer: httpx.Response, status: int = 422) -> list[tuple[int | None, str]]:
    """What is wrong, with line numbers."""
    found = problem(answer, status)["problems"]
    return [(one["line"], one["message"]) for one in found]
