"""Files and batches for Together's SDK, at the API: nothing works on the jobs here."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import pytest
import together
from fastapi.routing import APIRoute
from together import Together

from config.settings import Settings
from service import stages
from service.api.dropin.together import batches, files, uploads
from service.rules.credentials import Scope
from service.rules.outcomes import Split
from service.rules.states import Stage
from service.stages.clients import Clients
from service.store import jobs, producers
from service.store.models import Job
from service.upkeep.sweep import DAY, sweep
from tests.api import TOKEN, Api, chat
from tests.factories import FakeLease
from tests.together_by_hand import chat_line, jsonl

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"


class Door:
    """The SDK of one producer at the API."""

    def __init__(self, api: Api, **limits: int) -> None:
        self.api = api
        self.producer = f"billing-{uuid4()}"
        self.token = producers.add_producer(api.db, self.producer, **limits).text
        self.url = f"{api.url}/together/v1"
        self.client = Together(base_url=self.url, api_key=self.token)

    def http(
        self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        return httpx.request(
            method, f"{self.url}{path}", headers=headers, trust_env=False, timeout=60, **more
        )

    def create(self, file_id: str, **headers: str) -> str:
        """POST /batches as the SDK sends it, with other headers; gives the batch's id."""
        body = {"input_file_id": file_id, "endpoint": CHAT}
        answer = self.http("POST", "/batches", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        batch_id: str = answer.json()["job"]["id"]
        return batch_id

    def announce(self, **fields: str) -> tuple[str, str]:
        """A file whose bytes are still to come: its id, and where they are to be sent."""
        form = {"purpose": "batch-api", "file_name": "a.jsonl", "file_type": "jsonl", **fields}
        sent = {name: (None, value) for name, value in form.items()}
        answer = self.http("POST", "/files", files=sent)
        assert answer.status_code == 302, answer.text
        return answer.headers["x-together-file-id"], answer.headers["location"]

    def put(self, url: str, content: bytes) -> int:
        return httpx.put(url, content=content, trust_env=False, timeout=60).status_code

    def jobs(self) -> list[Job]:
        return jobs.jobs(self.api.db, producer=self.producer, limit=100)


@pytest.fixture
def door(refusing_api: Api) -> Door:
    """One API for all of them, and a new producer for each."""
    return Door(refusing_api)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_bytes(jsonl(chat_line(f"r{n}") for n in range(3)))
    return path


def retried(count: int, timeout: float = 60) -> dict[str, str]:
    """What the SDK says of itself when it sends something again."""
    return {"x-stainless-retry-count": str(count), "x-stainless-read-timeout": str(timeout)}


# --- files -------------------------------------------------------------------------------------


def test_a_file_is_uploaded_listed_shown_read_and_deleted(door: Door, path: Path) -> None:
    sdk = door.client.files
    uploaded = sdk.upload(path, purpose="batch-api")

    assert uploaded.bytes == path.stat().st_size
    assert uploaded.filename == "in.jsonl"
    assert [file.id for file in sdk.list().data] == [uploaded.id]
    assert sdk.retrieve(uploaded.id).purpose == "batch-api"
    assert sdk.content(uploaded.id).read() == path.read_bytes()
    copy = path.with_name("copy.jsonl")
    with sdk.with_streaming_response.content(uploaded.id) as response:
        response.stream_to_file(copy)
    assert copy.read_bytes() == path.read_bytes()
    assert sdk.delete(uploaded.id).deleted
    for again in (sdk.retrieve, sdk.content, sdk.delete):
        with pytest.raises(together.NotFoundError):
            again(uploaded.id)
    assert sdk.list().data == []


def test_the_same_content_is_uploaded_once(door: Door, path: Path) -> None:
    first = door.client.files.upload(path, purpose="batch-api")
    assert door.client.files.upload(path, purpose="batch-api").id == first.id
    door.client.files.delete(first.id)
    assert door.client.files.upload(path, purpose="batch-api").id != first.id


def test_more_lines_than_together_takes_are_cut_into_shards(door: Door, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_bytes(jsonl(chat_line(f"r{n}") for n in range(50_001)))
    file_id = door.client.files.upload(path, purpose="batch-api", check=False).id

    claim = door.api.harness.claim_job(UUID(door.create(file_id)), Stage.SPLIT)
    worker = Clients(blobs=door.api.blobs, lease=FakeLease(), scratch=tmp_path, settings=Settings())
    outcome = stages.split(claim, worker)

    assert isinstance(outcome, Split)
    assert [shard.requests for shard in outcome.shards] == [10_000] * 5 + [1]


def test_bytes_need_the_secret_and_the_checksum_that_was_announced(door: Door) -> None:
    file_id, url = door.announce(checksum="0" * 64)

    assert door.put(url[:-1], b"x") == 404
    assert door.put(url, b"x") == 400
    assert door.http("POST", f"/files/{file_id}/preprocess").status_code == 400
    with pytest.raises(together.NotFoundError):
        door.client.batches.create(endpoint=CHAT, input_file_id=file_id)


def test_what_was_uploaded_can_be_sent_again_but_not_made_larger(door: Door) -> None:
    _, url = door.announce()
    assert door.put(url, b"one\n") == 200
    assert door.put(url, b"one\n") == 200
    assert door.put(url, b"two\n") == 409
    assert door.put(url, b"one\ntwo\n") == 413


def test_an_upload_url_takes_bytes_for_a_day(door: Door) -> None:
    for sent in (b"", b"one\n"):
        file_id, url = door.announce()
        assert not sent or door.put(url, sent) == 200
        door.api.harness.run(
            "UPDATE haulier.files SET created_at = now() - interval '25 hours' WHERE id = :id",
            id=file_id,
        )
        assert door.put(url, b"one\n") == 404


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"file_type": "csv"}, "file_type"),
        ({"file_name": ""}, "file_name"),
        ({"file_name": "x" * 300}, "file_name"),
        ({"file_name": "a\u202e.jsonl"}, "file_name"),
        ({"checksum": "abc"}, "checksum"),
        ({"checksum": "x" * 10_000}, "part"),
    ],
)
def test_a_form_that_says_something_else_is_refused(
    door: Door, change: dict[str, str], words: str
) -> None:
    form = {"purpose": "batch-api", "file_name": "a.jsonl", "file_type": "jsonl", **change}
    answer = door.http("POST", "/files", files={n: (None, v) for n, v in form.items()})
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"].lower()


@pytest.mark.parametrize(
    ("count", "timeout"), [("1", "-1e300"), ("1", "nan"), ("-5", "60"), ("1", "-0.5")]
)
def test_numbers_that_cannot_be_of_a_try_before_are_refused(
    door: Door, path: Path, count: str, timeout: str
) -> None:
    file_id = door.client.files.upload(path, purpose="batch-api").id
    body = {"input_file_id": file_id, "endpoint": CHAT}
    said = {"x-stainless-retry-count": count, "x-stainless-read-timeout": timeout}
    answer = door.http("POST", "/batches", json=body, headers=said)
    assert (answer.status_code, door.jobs()) == (400, [])


@pytest.mark.parametrize(
    ("count", "timeout"),
    [
        (b"9" * 30, b"1e300"),
        (b"9" * 5000, b"1e999"),
        (b"1", b"inf"),
        (b"1", b"-0.0"),
        (b"", b""),
        (b"\xb2", b"\xb9"),  # digits, but not of ASCII
        (b"0x1", b"one"),
    ],
)
def test_other_numbers_of_a_try_do_no_harm(
    door: Door, path: Path, count: bytes, timeout: bytes
) -> None:
    file_id = door.client.files.upload(path, purpose="batch-api").id
    answer = httpx.post(
        f"{door.url}/batches",
        json={"input_file_id": file_id, "endpoint": CHAT},
        headers=[
            (b"Authorization", f"Bearer {door.token}".encode()),
            (b"x-stainless-retry-count", count),
            (b"x-stainless-read-timeout", timeout),
        ],
        trust_env=False,
    )
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("name", [b"a\x00", b"+2AA-"])  # the latter is U+D800
def test_a_file_name_that_is_no_text_is_refused(door: Door, name: bytes) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    form = [(b"purpose", b"batch-api"), (b"file_type", b"jsonl"), (b"file_name", name)]
    content = b"".join(part % field for field in form) + b"--b--\r\n"
    media_type = {"Content-Type": "multipart/form-data; boundary=b; charset=utf-7"}

    answer = door.http("POST", "/files", content=content, headers=media_type)

    assert answer.status_code == 400, answer.text
    assert "not text" in answer.json()["error"]["message"]


def test_an_id_that_is_no_text_is_of_no_file(door: Door) -> None:
    for method, end in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/content"),
        ("POST", "/preprocess"),
        ("PUT", "/bytes"),
    ):
        answer = door.http(method, f"/files/%00{end}")
        assert answer.status_code == 404, answer.text
    answer = door.http("POST", "/batches", json={"input_file_id": "\0", "endpoint": CHAT})
    assert answer.status_code == 404, answer.text


def test_a_file_over_the_producers_limit_is_refused(refusing_api: Api, path: Path) -> None:
    with pytest.raises(together.APIStatusError) as refused:
        Door(refusing_api, body_bytes=10).client.files.upload(path, purpose="batch-api")
    assert refused.value.status_code == 413


def test_files_that_are_gone_or_were_never_whole_are_swept(api: Api, path: Path) -> None:
    door = Door(api)
    kept = door.client.files.upload(path, purpose="batch-api").id
    path.write_bytes(jsonl([chat_line("x")]))
    gone = door.client.files.upload(path, purpose="batch-api").id
    path.write_bytes(jsonl([chat_line("y")]))
    unread = door.client.files.upload(path, purpose="batch-api").id
    door.create(unread)
    door.client.files.delete(gone)
    door.client.files.delete(unread)
    door.api.blobs.put(f"files/file-{uuid4()}/{uuid4()}", b"x")
    door.api.blobs.put("files/of/somebody/else", b"x")

    assert sweep(door.api.db, door.api.blobs, older_than=DAY) == 0
    assert sweep(door.api.db, door.api.blobs, older_than=timedelta(0)) == 1

    assert door.client.files.content(kept).read()
    (job,) = door.jobs()
    assert job.input is not None
    assert b"y" in b"".join(door.api.blobs.stream(job.input.partition(":")[2]))


# --- batches -----------------------------------------------------------------------------------


def test_a_batch_is_a_job_that_is_still_to_be_looked_at(door: Door, path: Path) -> None:
    file_id = door.client.files.upload(path, purpose="batch-api").id
    made = door.client.batches.create(
        endpoint=CHAT, input_file_id=file_id, completion_window="24h", priority=5, model_id="m"
    ).job

    assert made is not None
    assert (made.status, made.progress, made.input_file_id) == ("VALIDATING", 0.0, file_id)
    assert made.file_size_bytes == path.stat().st_size
    (job,) = door.jobs()
    assert (str(job.id), job.endpoint, job.priority) == (made.id, CHAT, 5)
    assert door.client.batches.retrieve(str(job.id)) == made
    assert door.client.batches.list() == [made]


def test_a_create_that_is_tried_again_finds_the_batch_of_the_first_try(
    door: Door, path: Path
) -> None:
    file_id = door.client.files.upload(path, purpose="batch-api").id
    first = door.create(file_id, **retried(0))
    assert door.create(file_id, **retried(1)) == first
    assert door.create(file_id, **retried(2)) == first

    second = door.create(file_id, **retried(0))  # asked for anew, as at Together
    assert second != first
    assert door.create(file_id, **retried(1)) == second


def test_a_retry_does_not_find_a_batch_from_before_its_first_try(door: Door, path: Path) -> None:
    file_id = door.client.files.upload(path, purpose="batch-api").id
    first = door.create(file_id)
    door.api.harness.run(
        "UPDATE haulier.jobs SET created_at = now() - interval '1 hour' WHERE id = :id", id=first
    )
    assert door.create(file_id, **retried(1)) != first


def test_tries_that_are_under_way_together_make_one_batch(door: Door, path: Path) -> None:
    file_id = door.client.files.upload(path, purpose="batch-api").id
    barrier = threading.Barrier(8)

    def create(count: int) -> str:
        barrier.wait()
        return door.create(file_id, **retried(count))

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(create, [1] * 8))
    assert len(made) == len(door.jobs()) == 1


def test_an_idempotency_key_holds_for_ever(door: Door, path: Path) -> None:
    file_id = door.client.files.upload(path, purpose="batch-api").id
    key = {"Idempotency-Key": "nightly"}
    assert door.create(file_id, **key) == door.create(file_id, **key)
    path.write_bytes(jsonl([chat_line("other")]))
    other = door.client.files.upload(path, purpose="batch-api").id
    with pytest.raises(together.ConflictError, match="other content"):
        door.client.batches.create(endpoint=CHAT, input_file_id=other, extra_headers=key)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'{"endpoint": 1}', b"\xff", b'{"input_file_id": "x", "endpoint": "/v2"}',
     b'{"input_file_id": "x", "endpoint": "/v1/chat/completions", "priority": 5000}',
     b"[" * 60_000, b" " * 70_000],
)  # fmt: skip
def test_a_create_that_makes_no_sense_is_refused(door: Door, content: bytes) -> None:
    answer = door.http("POST", "/batches", content=content)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-should-retry"] == "false"
    assert door.jobs() == []


def test_a_create_over_the_producers_limit_is_told_to_come_back(
    refusing_api: Api, path: Path
) -> None:
    door = Door(refusing_api, open_requests=1)
    file_id = door.client.files.upload(path, purpose="batch-api").id
    auth = {"Authorization": f"Bearer {door.token}"}
    door.api.http.post("/v1/jobs", json=chat("open"), headers=auth).raise_for_status()

    with pytest.raises(together.RateLimitError, match="open at a time") as refused:
        door.client.with_options(max_retries=0).batches.create(endpoint=CHAT, input_file_id=file_id)

    assert int(refused.value.response.headers["retry-after"]) > 0
    assert refused.value.response.headers["x-should-retry"] == "true"
    assert len(door.jobs()) == 1


def test_no_spec_can_name_an_uploaded_file(door: Door, path: Path) -> None:
    door.create(door.client.files.upload(path, purpose="batch-api").id)
    (job,) = door.jobs()
    answer = door.api.http.post("/v1/jobs", json={"endpoint": CHAT, "input": job.input})
    assert answer.status_code == 422


# --- who may -------------------------------------------------------------------------------------


def test_each_producer_has_its_own_files_and_batches(door: Door, path: Path) -> None:
    file_id = door.client.files.upload(path, purpose="batch-api").id
    batch_id = door.create(file_id)
    other = Door(door.api).client

    assert other.files.list().data == []
    assert other.batches.list() == []
    for asked in (
        lambda: other.files.retrieve(file_id),
        lambda: other.files.content(file_id),
        lambda: other.files.delete(file_id),
        lambda: other.batches.create(endpoint=CHAT, input_file_id=file_id),
        lambda: other.batches.retrieve(batch_id),
        lambda: other.batches.cancel(batch_id),
        lambda: other.files.retrieve(f"file-output-{batch_id}-1"),
    ):
        with pytest.raises(together.NotFoundError):
            asked()
    assert other.files.upload(path, purpose="batch-api").id != file_id


def test_an_input_that_was_made_up_shows_nothing_of_a_file(door: Door, path: Path) -> None:
    file_id = door.client.files.upload(path, purpose="batch-api").id
    other = Door(door.api)
    made_up = "UPDATE haulier.jobs SET input = :input WHERE id = :id"
    first, second = (
        other.create(other.client.files.upload(path, purpose="batch-api").id) for _ in range(2)
    )
    door.api.harness.run(made_up, id=first, input="haulier-file:x")
    door.api.harness.run(made_up, id=second, input=f"haulier-file:files/{file_id}/{uuid4()}")

    (listed,) = other.client.batches.list()

    assert (listed.id, listed.input_file_id, listed.file_size_bytes) == (second, file_id, 0)
    with pytest.raises(together.NotFoundError):
        other.client.batches.retrieve(first)


def test_everything_but_the_bytes_needs_a_token(door: Door) -> None:
    routers = (uploads.open_router, uploads.router, files.router, batches.router)
    asked = 0
    for route in chain.from_iterable(router.routes for router in routers):
        assert isinstance(route, APIRoute)
        for method in route.methods or ():
            url = door.url + route.path.format(file_id="f", batch_id="b")
            answer = httpx.request(method, url, trust_env=False)
            assert answer.status_code == (404 if method == "PUT" else 401), url
            asked += 1
    assert asked >= 11
    client = Together(base_url=door.url, api_key="wrong", max_retries=0)
    with pytest.raises(together.AuthenticationError):
        client.batches.list()


def test_a_token_does_what_its_scopes_allow(door: Door, path: Path) -> None:
    file_id = door.client.files.upload(path, purpose="batch-api").id
    reading = producers.add_credential(door.api.db, door.producer, scopes=[Scope.READ]).text
    client = Together(base_url=door.url, api_key=reading)

    assert client.files.retrieve(file_id).id == file_id
    for refused in (
        lambda: client.batches.create(endpoint=CHAT, input_file_id=file_id),
        lambda: client.batches.cancel(file_id),
        lambda: client.files.delete(file_id),
    ):
        with pytest.raises(together.PermissionDeniedError):
            refused()


@pytest.mark.parametrize("base", ["/together/v1", "/together", "/together/v1/"])
def test_the_base_url_may_end_as_it_likes(refusing_api: Api, path: Path, base: str) -> None:
    client = Together(base_url=f"{refusing_api.url}{base}", api_key=TOKEN)
    uploaded = client.files.upload(path, purpose="batch-api")
    assert client.files.content(uploaded.id).read() == path.read_bytes()


def test_what_is_not_there_is_an_error_in_togethers_form(door: Door) -> None:
    for method, url, status in (
        ("GET", "/models", 404),
        ("PATCH", "/files", 405),
        ("POST", "/files/multipart/initiate", 400),
    ):
        answer = door.http(method, url)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_while_storage_does_not_work_the_sdk_is_told_to_come_back(
    api: Api, api_settings: Settings, path: Path
) -> None:
    door = Door(api)
    root = Path(urlsplit(api_settings.blobs).path)
    shutil.rmtree(root)
    root.write_text("no folder")

    with pytest.raises(together.APIStatusError) as refused:
        door.client.files.upload(path, purpose="batch-api")

    assert refused.value.status_code == 503
    assert refused.value.response.json()["error"]["code"] == "storage_unavailable"
