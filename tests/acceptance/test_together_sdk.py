"""The official SDK, told nothing but the simulator's address and a key, notices no difference."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import pytest
import together
from together import AsyncTogether, Together

from tests.simulator import KEY, Simulator
from tests.together_by_hand import Json, chat_line, jsonl

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TRANSCRIPTIONS: Literal["/v1/audio/transcriptions"] = "/v1/audio/transcriptions"
TRANSLATIONS: Literal["/v1/audio/translations"] = "/v1/audio/translations"
TERMINAL = ("COMPLETED", "FAILED", "EXPIRED", "CANCELLED")


@pytest.fixture
def client(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> Together:
    """The SDK as a user makes it, from the environment."""
    monkeypatch.setenv("TOGETHER_BASE_URL", simulator.url)
    monkeypatch.setenv("TOGETHER_API_KEY", KEY)
    return Together()


@pytest.fixture
def input_file(tmp_path: Path) -> Path:
    """Three good requests and one that fails."""
    path = tmp_path / "batch_input.jsonl"
    lines: list[Json] = [chat_line(f"ok-{n}", f"Count to {n}.") for n in range(3)]
    path.write_bytes(jsonl([*lines, {"custom_id": "bad", "body": {"messages": []}}]))
    return path


def audio_file(directory: Path, *, with_method: bool = True) -> Path:
    path = directory / "audio_batch.jsonl"
    method = {"method": "FILE"} if with_method else {}
    body = {"model": "openai/whisper-large-v3", "file": "https://example.com/clip.mp3"}
    path.write_bytes(jsonl({"custom_id": f"a{n}", **method, "body": body} for n in range(2)))
    return path


def finished(client: Together, batch_id: str) -> Any:
    while (job := client.batches.retrieve(batch_id)).status not in TERMINAL:
        time.sleep(0.02)
    return job


def lines_of(client: Together, file_id: str) -> dict[str, Json]:
    content = client.files.content(file_id).read().decode()
    return {line["custom_id"]: line for line in map(json.loads, content.splitlines())}


@pytest.mark.parametrize("check", [False, True])
def test_a_chat_batch_goes_from_file_to_results(
    client: Together, input_file: Path, check: bool
) -> None:
    uploaded = client.files.upload(file=input_file, purpose="batch-api", check=check)
    assert uploaded.filename == "batch_input.jsonl"
    assert uploaded.bytes == input_file.stat().st_size
    assert uploaded.purpose == "batch-api"
    job = client.batches.create(endpoint=CHAT, input_file_id=uploaded.id).job
    assert job is not None
    assert job.id is not None
    assert job.status == "VALIDATING"
    job = finished(client, job.id)
    assert (job.status, job.progress) == ("COMPLETED", 100)
    results = lines_of(client, job.output_file_id)
    assert set(results) == {"ok-0", "ok-1", "ok-2"}
    message = results["ok-2"]["response"]["body"]["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "echo: Count to 2."}
    errors = lines_of(client, job.error_file_id)
    assert errors["bad"]["error"]["code"] == "batch_client_error"


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (TRANSCRIPTIONS, "transcript of https://example.com/clip.mp3"),
        (TRANSLATIONS, "translation of https://example.com/clip.mp3"),
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_an_audio_batch_goes_from_file_to_results(
    client: Together, tmp_path: Path, endpoint: Any, text: str, check: bool
) -> None:
    path = audio_file(tmp_path)
    uploaded = client.files.upload(file=str(path), purpose="batch-api", check=check)
    job = client.batches.create(endpoint=endpoint, input_file_id=uploaded.id).job
    assert job is not None
    assert job.id is not None
    job = finished(client, job.id)
    assert job.error_file_id is None
    results = lines_of(client, job.output_file_id)
    assert {line["response"]["body"]["text"] for line in results.values()} == {text}


def test_audio_without_method_fails_line_by_line(client: Together, tmp_path: Path) -> None:
    path = audio_file(tmp_path, with_method=False)
    uploaded = client.files.upload(file=path, purpose="batch-api")
    job = client.batches.create(endpoint=TRANSCRIPTIONS, input_file_id=uploaded.id).job
    assert job is not None
    assert job.id is not None
    job = finished(client, job.id)
    assert (job.status, job.output_file_id) == ("COMPLETED", None)
    messages = {line["error"]["message"] for line in lines_of(client, job.error_file_id).values()}
    assert messages == {"Content-Type must be multipart/form-data"}


SCRIPT = """
import json, sys, time
from together import Together

client = Together()
uploaded = client.files.upload(sys.argv[1], purpose="batch-api", check=False)
batch = client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions").job
while batch.status not in ("COMPLETED", "FAILED", "EXPIRED", "CANCELLED"):
    time.sleep(0.05)
    batch = client.batches.retrieve(batch.id)
for file_id in (batch.output_file_id, batch.error_file_id):
    for line in client.files.content(file_id).read().decode().splitlines():
        print(json.loads(line)["custom_id"])
"""


def test_a_script_needs_two_environment_variables_and_no_change(
    simulator: Simulator, input_file: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(input_file)],
        env={"TOGETHER_BASE_URL": simulator.url, "TOGETHER_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert sorted(done.stdout.split()) == ["bad", "ok-0", "ok-1", "ok-2"]


def test_the_asynchronous_client_works_as_well(
    client: Together, simulator: Simulator, input_file: Path
) -> None:
    async def run() -> bytes:
        async with AsyncTogether() as asynchronous:
            uploaded = await asynchronous.files.upload(input_file, purpose="batch-api", check=False)
            job = (await asynchronous.batches.create(endpoint=CHAT, input_file_id=uploaded.id)).job
            assert job is not None
            while job.status not in TERMINAL:
                await asyncio.sleep(0.02)
                job = await asynchronous.batches.retrieve(job.id or "")
            content = await asynchronous.files.content(job.output_file_id or "")
            return await content.read()

    assert asyncio.run(run()).count(b"\n") == 3


def test_a_create_whose_answer_is_lost_is_bought_twice(
    client: Together, simulator: Simulator, input_file: Path
) -> None:
    """The trap that Haulier exists to avoid: the SDK repeats what it got no answer to."""
    file_id = client.files.upload(input_file, purpose="batch-api").id
    simulator.fault("create", "lost", after_commit=True)
    job = client.batches.create(endpoint=CHAT, input_file_id=file_id).job
    assert job is not None
    listed = client.batches.list()
    assert len(listed) == 2
    for other in listed:
        finished(client, other.id or "")
    assert simulator.account().batches_by_input_file == {file_id: 2}
    assert simulator.billed("ok-1") == 2
    assert simulator.books().totals.duplicate_successes == 3


def test_a_create_that_times_out_at_the_gateway_is_bought_twice(
    client: Together, simulator: Simulator, input_file: Path
) -> None:
    file_id = client.files.upload(input_file, purpose="batch-api").id
    simulator.fault("create", "status", status=504, body="html", after_commit=True)
    client.batches.create(endpoint=CHAT, input_file_id=file_id)
    assert simulator.batches_created == 2


def test_a_create_that_never_arrived_is_bought_once(
    client: Together, simulator: Simulator, input_file: Path
) -> None:
    file_id = client.files.upload(input_file, purpose="batch-api").id
    simulator.fault("create", "lost")
    client.batches.create(endpoint=CHAT, input_file_id=file_id)
    assert simulator.batches_created == 1


def test_the_same_file_is_uploaded_once(
    client: Together, simulator: Simulator, input_file: Path
) -> None:
    first = client.files.upload(input_file, purpose="batch-api")
    again = client.with_options(max_retries=0).files.upload(input_file, purpose="batch-api")
    assert first.id == again.id
    assert simulator.books().totals.files_uploaded == 1


def test_files_are_listed_shown_and_deleted(client: Together, input_file: Path) -> None:
    uploaded = client.files.upload(input_file, purpose="batch-api")
    assert [file.id for file in client.files.list().data] == [uploaded.id]
    assert client.files.retrieve(uploaded.id).bytes == uploaded.bytes
    assert client.files.content(uploaded.id).read() == input_file.read_bytes()
    assert client.files.delete(uploaded.id).deleted
    with pytest.raises(together.NotFoundError):
        client.files.retrieve(uploaded.id)


def test_batches_are_listed_and_cancelled(
    client: Together, simulator: Simulator, input_file: Path
) -> None:
    assert not client.batches.list()
    simulator.batch_rule(hang=True)
    file_id = client.files.upload(input_file, purpose="batch-api").id
    job = client.batches.create(endpoint=CHAT, input_file_id=file_id).job
    assert job is not None
    assert job.id is not None
    assert [listed.id for listed in client.batches.list()] == [job.id]
    assert str(client.batches.cancel(job.id).status) == "CANCELING"
    assert finished(client, job.id).status == "CANCELLED"
    with pytest.raises(together.ConflictError):
        client.with_options(max_retries=0).batches.cancel(job.id)


def test_uploads_and_downloads_follow_redirects(
    client: Together, simulator: Simulator, tmp_path: Path
) -> None:
    input_file = tmp_path / "large.jsonl"
    input_file.write_bytes(jsonl(chat_line(f"r{n}", "x" * 2000) for n in range(5000)))
    simulator.switch(upload_redirects=2)
    file_id = client.files.upload(input_file, purpose="batch-api", check=False).id
    for where in ("path", "host"):
        simulator.switch(content_redirect=where)
        assert client.files.content(file_id).read() == input_file.read_bytes()


def test_a_large_file_streams_to_disk(
    client: Together, simulator: Simulator, tmp_path: Path
) -> None:
    path, copy = tmp_path / "large.jsonl", tmp_path / "copy.jsonl"
    path.write_bytes(jsonl(chat_line(f"r{n}", "x" * 2000) for n in range(10_000)))
    uploaded = client.files.upload(path, purpose="batch-api", check=False)
    assert uploaded.bytes == path.stat().st_size
    with client.files.with_streaming_response.content(uploaded.id) as response:
        response.stream_to_file(copy)
    assert copy.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, together.BadRequestError),
        (401, together.AuthenticationError),
        (403, together.PermissionDeniedError),
        (404, together.NotFoundError),
        (409, together.ConflictError),
        (429, together.RateLimitError),
        (500, together.InternalServerError),
        (503, together.InternalServerError),
    ],
)
@pytest.mark.parametrize("body", ["string", "object", "html", "empty"])
def test_errors_arrive_as_the_exceptions_of_the_sdk(
    client: Together, simulator: Simulator, status: int, error: type[Exception], body: str
) -> None:
    simulator.fault("list", "status", status=status, body=body)
    with pytest.raises(error):
        client.with_options(max_retries=0).batches.list()


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_key_is_refused_to_the_sdk(
    client: Together, simulator: Simulator, input_file: Path, status: int
) -> None:
    simulator.keys({KEY: status})
    with pytest.raises(together.APIStatusError) as refused:
        client.batches.create(endpoint=CHAT, input_file_id="file-1")
    assert refused.value.status_code == status
    with pytest.raises(together.APIStatusError):
        client.files.upload(input_file, purpose="batch-api")


def test_a_connection_lost_for_good_is_an_error(client: Together, simulator: Simulator) -> None:
    simulator.fault("retrieve", "lost", times=None)
    with pytest.raises(together.APIConnectionError):
        client.with_options(max_retries=0).batches.retrieve("some-batch")
