"""Files and batches for OpenAI's SDK, at the API: nothing works on the jobs here."""

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Batch, FileDeleted, FileObject, Model

from config.settings import Settings
from service.store import jobs, producers
from service.store.models import Job
from service.upkeep import files
from tests.api import Api, chat, serving
from tests.integration.api.test_dropin import CHAT
from tests.integration.api.test_dropin_storage import DAYS
from tests.together_by_hand import chat_line, jsonl

ERROR_FIELDS = {"message", "type", "param", "code"}


class Door:
    """OpenAI's SDK of one producer at the API."""

    def __init__(self, api: Api, **limits: int) -> None:
        self.api = api
        self.producer = f"billing-{uuid4()}"
        self.token = producers.add_producer(api.db, self.producer, **limits).text
        self.url = f"{api.url}/openai/v1"
        self.client = OpenAI(base_url=self.url, api_key=self.token, max_retries=0)

    def http(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        return httpx.request(
            method, f"{self.url}{path}", headers=headers, trust_env=False, timeout=60, **more
        )

    def file(self, *custom_ids: str) -> FileObject:
        content = jsonl(map(chat_line, custom_ids or ("a",)))
        return self.client.files.create(file=("in.jsonl", content), purpose="batch")

    def batch(self, file_id: str, **fields: Any) -> Batch:
        return self.client.batches.create(
            completion_window="24h", endpoint=CHAT, input_file_id=file_id, **fields
        )

    def jobs(self) -> list[Job]:
        return jobs.jobs(self.api.db, producer=self.producer, limit=100)


@pytest.fixture
def door(refusing_api: Api) -> Door:
    return Door(refusing_api)


def strictly(shown: FileObject | Batch | FileDeleted | Model) -> None:
    """The SDK itself takes whatever comes; its models say what ought to."""
    type(shown).model_validate_json(shown.to_json())


def test_a_file_is_uploaded_listed_shown_read_and_deleted(door: Door, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(jsonl(chat_line(f"r{n}") for n in range(3)))
    sdk = door.client.files
    with path.open("rb") as content:
        made = sdk.create(file=content, purpose="batch")

    strictly(made)
    assert (made.filename, made.bytes) == ("in.jsonl", path.stat().st_size)
    assert (made.purpose, made.status) == ("batch", "processed")
    assert sdk.retrieve(made.id) == made
    assert sdk.wait_for_processing(made.id) == made
    assert list(sdk.list()) == [made]
    assert list(sdk.list(purpose="vision")) == []
    assert sdk.content(made.id).read() == path.read_bytes()
    deleted = sdk.delete(made.id)
    strictly(deleted)
    assert deleted.deleted
    for again in (sdk.retrieve, sdk.content, sdk.delete):
        with pytest.raises(openai.NotFoundError):
            again(made.id)


def test_a_range_of_a_file_can_be_had(door: Door) -> None:
    content = jsonl(map(chat_line, "abc"))
    path = f"/files/{door.file(*'abc').id}/content"
    whole = door.http("GET", path)
    assert (whole.status_code, whole.content) == (200, content)
    size, etag = len(content), whole.headers["etag"]
    for asked, headers, expected in (
        ("bytes=0-1", {}, content[:2]),
        ("bytes=5-", {}, content[5:]),
        ("bytes=-7", {"If-Range": etag}, content[-7:]),
        (f"bytes=3-{size * 2}", {}, content[3:]),
    ):
        part = door.http("GET", path, headers={"Range": asked, **headers})
        first = size - len(expected) if asked != "bytes=0-1" else 0
        assert (part.status_code, part.content) == (206, expected)
        last = first + len(expected) - 1
        assert part.headers["content-range"] == f"bytes {first}-{last}/{size}"
    for headers in ({"If-Range": '"other"'}, {"Range": "bytes=0-1,3-4"}, {"Range": "lines=1-2"}):
        answer = door.http("GET", path, headers={"Range": "bytes=0-1", **headers})
        assert (answer.status_code, answer.content) == (200, content)
    beyond = door.http("GET", path, headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")


def test_the_asynchronous_sdk_works_as_well(door: Door) -> None:
    asyncio.run(asynchronously(door))


async def asynchronously(door: Door) -> None:
    async with AsyncOpenAI(base_url=door.url, api_key=door.token) as client:
        made = await client.files.create(file=("in.jsonl", b"{}\n"), purpose="batch")
        assert [file.id async for file in client.files.list()] == [made.id]
        batch = await client.batches.create(
            completion_window="24h", endpoint=CHAT, input_file_id=made.id
        )
        assert [found.id async for found in client.batches.list()] == [batch.id]
        assert (await client.batches.cancel(batch.id)).status in {"cancelling", "cancelled"}


def test_a_batch_is_a_job(door: Door) -> None:
    file_id = door.file("a", "b").id
    made = door.batch(file_id, metadata={"night": "2026-11-29"})

    strictly(made)
    (job,) = door.jobs()
    assert (made.id, made.status, made.input_file_id) == (str(job.id), "validating", file_id)
    assert (made.endpoint, made.completion_window) == (CHAT, "24h")
    assert made.metadata == job.labels == {"night": "2026-11-29"}
    assert (made.errors, made.output_file_id, made.completed_at) == (None, None, None)
    assert door.client.batches.retrieve(made.id) == made
    together = httpx.get(
        f"{door.api.url}/together/v1/batches/{made.id}",
        headers={"Authorization": f"Bearer {door.token}"},
        trust_env=False,
    )
    assert together.json()["status"] == "VALIDATING"


def test_states_in_openais_words(door: Door) -> None:
    batch_id = door.batch(door.file().id).id
    moves = [
        ("state = 'running', started_at = now(), total = 3, pending = 3", "in_progress"),
        ("pending = 0, succeeded = 2, failed = 1", "finalizing"),
        ("cancel_requested_at = now()", "cancelling"),
        ("state = 'cancelled', finished_at = now(), generation = 1", "cancelled"),
        ("state = 'completed'", "completed"),
        ("state = 'failed', error = 'line 2: is not JSON'", "failed"),
        ('state = \'rejected\', problems = \'[{"line": 2, "message": "bad"}]\'', "failed"),
    ]
    for change, status in moves:
        door.api.harness.run(f"UPDATE haulier.jobs SET {change} WHERE id = :id", id=batch_id)
        shown = door.client.batches.retrieve(batch_id)
        strictly(shown)
        assert shown.status == status
        assert (shown.output_file_id is None) == (status not in {"cancelled", "completed"})
        if status != "finalizing":
            assert getattr(shown, f"{status}_at") is not None
    assert shown.request_counts is not None
    assert shown.request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}
    assert shown.errors is not None
    assert shown.errors.data is not None
    assert [(one.line, one.message) for one in shown.errors.data] == [(2, "bad")]


def test_lists_come_in_pages(door: Door) -> None:
    file_ids = [door.file(name).id for name in "abcde"]
    batch_ids = [door.batch(file_id).id for file_id in file_ids]
    sdk = door.client

    assert [one.id for one in sdk.batches.list(limit=2)] == batch_ids[::-1]
    assert [one.id for one in sdk.files.list(limit=2)] == file_ids[::-1]
    assert [one.id for one in sdk.files.list(limit=2, order="asc")] == file_ids
    for path, ids in (("/batches", batch_ids), ("/files", file_ids)):
        page = door.http("GET", path, params={"limit": 2, "after": ids[-1]}).json()
        assert (page["object"], page["has_more"]) == ("list", True)
        assert (page["first_id"], page["last_id"]) == (ids[-2], ids[-3])
        page = door.http("GET", path, params={"after": ids[0]}).json()
        assert page == {
            "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False
        }  # fmt: skip
        for wrong in ({"after": "x"}, {"after": "\0"}, {"limit": 0}, {"limit": 10**9}):
            refused = door.http("GET", path, params=wrong)
            assert refused.status_code == 400
            assert next(iter(wrong)) in refused.json()["error"]["message"]


def test_a_file_may_ask_to_expire_early(door: Door) -> None:
    asked: Any = {"anchor": "created_at", "seconds": 3600}
    made = door.client.files.create(
        file=("in.jsonl", b"{}\n"), purpose="batch", expires_after=asked
    )
    assert made.expires_at is not None
    assert abs(made.expires_at - made.created_at - 3600) <= 60
    other = door.file()
    assert abs((other.expires_at or 0) - other.created_at - DAYS.total_seconds()) <= 60

    door.api.harness.run("UPDATE haulier.files SET expires_at = now() WHERE id = :id", id=made.id)
    files.expire(door.api.db, door.api.blobs, DAYS)

    assert [file.id for file in door.client.files.list()] == [other.id]


@pytest.mark.parametrize(
    ("expires_after", "words"),
    [
        ({"anchor": "created_at", "seconds": 60}, "3,600"),
        ({"anchor": "created_at", "seconds": 10**12}, "2,592,000"),
        ({"anchor": "created_at", "seconds": "0000003600" + "9" * 999}, "2,592,000"),
        ({"anchor": "created_at", "seconds": "٣٦٠٠"}, "seconds"),
        ({"anchor": "created_at", "seconds": "soon"}, "seconds"),
        ({"anchor": "now", "seconds": 3600}, "created_at"),
        ({"anchor": "created_at"}, "missing"),
        ({"seconds": 3600}, "missing"),
    ],
)
def test_a_lifetime_that_is_none_is_refused(door: Door, expires_after: Any, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        door.client.files.create(
            file=("in.jsonl", b"{}\n"), purpose="batch", expires_after=expires_after
        )
    assert list(door.client.files.list()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"endpoint": "/v1/responses"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"completion_window": None}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": "x" * 20_000}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3600}}, "output_expires"),
        ({"input_file_id": 1}, "input_file_id"),
    ],
)
def test_a_create_that_makes_no_sense_is_refused(
    door: Door, change: dict[str, Any], words: str
) -> None:
    fields = {"endpoint": CHAT, "completion_window": "24h", "input_file_id": door.file().id}
    answer = door.http("POST", "/batches", json=fields | change)

    assert answer.status_code in {400, 413}, answer.text
    assert set(answer.json()["error"]) == ERROR_FIELDS
    assert words in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert door.jobs() == []


def test_a_create_that_is_tried_again_finds_the_batch_of_the_first_try(door: Door) -> None:
    file_id = door.file().id
    again = {"x-stainless-retry-count": "1"}
    made = [door.batch(file_id, extra_headers=headers).id for headers in ({}, again, again)]
    assert len(set(made)) == len(door.jobs()) == 1
    key = {"Idempotency-Key": "nightly"}
    assert door.batch(file_id, extra_headers=key).id == door.batch(file_id, extra_headers=key).id


def test_the_sdk_raises_its_own_errors(door: Door) -> None:
    sdk, nowhere = door.client, str(uuid4())
    with pytest.raises(openai.NotFoundError) as found:
        sdk.batches.retrieve(nowhere)
    assert (found.value.code, found.value.type) == ("not_found", "not_found_error")
    assert (found.value.request_id or "").startswith("req_")
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=door.url, api_key="wrong", max_retries=0).batches.list()
    cancelled = door.batch(door.file().id).id
    sdk.batches.cancel(cancelled)
    door.api.harness.run("UPDATE haulier.jobs SET state = 'cancelled', finished_at = now()")
    with pytest.raises(openai.ConflictError):
        sdk.batches.cancel(cancelled)
    over = Door(door.api, open_requests=1)
    auth = {"Authorization": f"Bearer {over.token}"}
    door.api.http.post("/v1/jobs", json=chat("open"), headers=auth).raise_for_status()
    with pytest.raises(openai.RateLimitError, match="open at a time") as limited:
        over.batch(over.file().id)
    assert int(limited.value.response.headers["retry-after"]) > 0


def test_each_producer_has_its_own_files_and_batches(door: Door) -> None:
    file_id = door.file().id
    batch_id = door.batch(file_id).id
    other = Door(door.api)

    assert list(other.client.files.list()) == []
    assert list(other.client.batches.list()) == []
    for asked in (
        lambda: other.client.files.retrieve(file_id),
        lambda: other.client.files.content(file_id),
        lambda: other.client.files.delete(file_id),
        lambda: other.batch(file_id),
        lambda: other.client.batches.retrieve(batch_id),
        lambda: other.client.batches.cancel(batch_id),
        lambda: other.client.files.content(f"file-output-{batch_id}-1"),
    ):
        with pytest.raises(openai.NotFoundError):
            asked()
    for path, after in (("/files", file_id), ("/batches", batch_id)):
        assert other.http("GET", path, params={"after": after}).status_code == 400


def test_models_are_those_with_a_price_and_those_that_the_producer_used(
    api_settings: Settings,
) -> None:
    table = {"acme/priced": [{"from": "2026-01-02", "input": "1", "output": "2"}]}
    settings = Settings.model_validate(
        api_settings.model_dump(exclude={"prices"}) | {"prices": json.dumps(table)}
    )
    with serving(settings) as api:
        door, other = Door(api), Door(api)
        with api.db.begin() as session:
            session.connection().exec_driver_sql(
                "INSERT INTO haulier.usage (day, producer, account, model)"
                " SELECT current_date - days, %s, 'default', 'acme/used' FROM unnest(%s) AS days",
                (door.producer, [1, 2]),
            )

        models = list(door.client.models.list())
        for model in models:
            strictly(model)
        assert [(model.id, model.owned_by) for model in models] == [
            ("acme/priced", "acme"),
            ("acme/used", "acme"),
        ]
        assert models[0].created == 1767312000
        assert [model.id for model in other.client.models.list()] == ["acme/priced"]
