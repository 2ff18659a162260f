"""Together's own SDK, unmodified, against Haulier: behind each of its batches stands a job."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
import together
from together import AsyncTogether, Together

from service.store import producers
from tests.api import started_url
from tests.eventually import eventually
from tests.pipeline import Pipeline
from tests.processes import Processes, Running
from tests.simulator import Simulator
from tests.together_by_hand import Json, chat_line, jsonl

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TRANSCRIPTIONS: Literal["/v1/audio/transcriptions"] = "/v1/audio/transcriptions"
TERMINAL = ("COMPLETED", "FAILED", "EXPIRED", "CANCELLED")
GUIDE = Path(__file__).parents[2] / "docs" / "together-sdk.md"


class Deployment:
    """An API with a producer, and the SDK of that producer."""

    def __init__(self, pipeline: Pipeline, api: Running) -> None:
        self.pipeline = pipeline
        self.url = started_url(api)
        self.token = producers.add_producer(pipeline.db, "billing").text
        self.client = self.client_of(self.token)

    def client_of(self, token: str) -> Together:
        return Together(base_url=f"{self.url}/together/v1", api_key=token)

    def work(self, **worker: str) -> Running:
        """Start what works on jobs; gives the worker."""
        self.pipeline.scheduler(**worker)
        return self.pipeline.worker(**worker)

    def finished(self, batch_id: str) -> Any:
        def ended() -> Any:
            batch = self.client.batches.retrieve(batch_id)
            return batch if batch.status in TERMINAL else None

        return eventually(ended)

    def lines(self, file_id: str | None) -> list[Json]:
        assert file_id is not None
        content = self.client.files.content(file_id).read().decode()
        return [json.loads(line) for line in content.splitlines()]


@pytest.fixture
def deployment(pipeline: Pipeline, api_process: Running) -> Deployment:
    return Deployment(pipeline, api_process)


def written(directory: Path, lines: Iterable[Json]) -> Path:
    path = directory / "batch_input.jsonl"
    path.write_bytes(jsonl(lines))
    return path


def chats(directory: Path, *custom_ids: str) -> Path:
    return written(directory, [chat_line(custom_id, "Say so.") for custom_id in custom_ids])


def test_the_tutorial_runs_as_it_is(deployment: Deployment, tmp_path: Path) -> None:
    deployment.work()
    found = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found

    script = subprocess.run(
        [sys.executable, "-c", found[1]],
        cwd=tmp_path,
        env={
            **os.environ,
            "TOGETHER_BASE_URL": f"{deployment.url}/together/v1",
            "TOGETHER_API_KEY": deployment.token,
            "POLL_SECONDS": "0.2",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert script.returncode == 0, script.stderr
    assert "COMPLETED 100.0" in script.stdout
    assert [line.split()[0] for line in script.stdout.splitlines()[-3:]] == [
        f"request-{number}" for number in range(3)
    ]


def test_a_large_file_is_sharded_and_only_what_failed_for_good_is_in_the_error_file(
    deployment: Deployment, simulator: Simulator, tmp_path: Path
) -> None:
    deployment.work(HAULIER_SHARD_REQUESTS="10")
    simulator.line_rule("error", custom_id="r03", message="Maximum four stop sequences allowed")
    simulator.line_rule("error", custom_id="r14", times=1, message="Internal Server Error")
    simulator.line_rule("error", custom_id="r29", message="Invalid model specified")
    ids = [f"r{number:02}" for number in range(30)]

    file_id = deployment.client.files.upload(chats(tmp_path, *ids), purpose="batch-api").id
    made = deployment.client.batches.create(endpoint=CHAT, input_file_id=file_id).job
    assert made is not None
    batch = deployment.finished(made.id or "")

    assert (batch.status, batch.progress) == ("COMPLETED", 100.0)
    output, errors = deployment.lines(batch.output_file_id), deployment.lines(batch.error_file_id)
    assert [line["custom_id"] for line in output] == [i for i in ids if i not in {"r03", "r29"}]
    assert all(line["response"]["status_code"] == 200 for line in output)
    assert [(line["custom_id"], line["error"]["code"]) for line in errors] == [
        ("r03", "batch_client_error"),
        ("r29", "batch_client_error"),
    ]
    assert simulator.executed("r14") == 2
    assert deployment.pipeline.batch_count(UUID(batch.id)) == 4
    for outcome in (batch.output_file_id, batch.error_file_id):
        size = deployment.client.files.retrieve(outcome).bytes
        whole = deployment.client.files.content(outcome).read()
        assert size == len(whole)
        for start, stop in ((0, 2), (1, size - 1), (size // 3, size // 2), (size - 1, size)):
            asked = {"Range": f"bytes={start}-{stop - 1}"}
            part = deployment.client.files.content(outcome, extra_headers=asked)
            assert part.read() == whole[start:stop]
    assert asyncio.run(streamed(deployment, batch.output_file_id)) == len(output)


async def streamed(deployment: Deployment, file_id: str) -> int:
    """How many lines the asynchronous SDK reads, piece by piece."""
    async with (
        AsyncTogether(base_url=f"{deployment.url}/together/v1", api_key=deployment.token) as client,
        client.files.with_streaming_response.content(file_id) as response,
    ):
        return len([line async for line in response.iter_lines()])


def test_batches_end_in_every_way_that_they_do_at_together(
    deployment: Deployment, simulator: Simulator, tmp_path: Path
) -> None:
    deployment.work()
    client = deployment.client

    def batch_of(lines: Iterable[Json], endpoint: Any = CHAT) -> str:
        file_id = client.files.upload(written(tmp_path, lines), purpose="batch-api", check=False).id
        job = client.batches.create(endpoint=endpoint, input_file_id=file_id).job
        assert job is not None
        assert job.id is not None
        return job.id

    bad = deployment.finished(batch_of([chat_line("a"), {"custom_id": "a"}]))
    assert bad.status == "FAILED"
    assert "line 2" in bad.error
    assert (bad.output_file_id, bad.error_file_id) == (None, None)

    audio = {"model": "openai/whisper-large-v3", "file": "https://example.com/clip.mp3"}
    line = {"custom_id": "clip", "method": "FILE", "body": audio}
    heard = deployment.finished(batch_of([line], TRANSCRIPTIONS))
    assert (heard.status, heard.error_file_id) == ("COMPLETED", None)
    assert "text" in deployment.lines(heard.output_file_id)[0]["response"]["body"]
    with pytest.raises(together.ConflictError):
        client.batches.cancel(heard.id)

    simulator.batch_rule(hang=True)
    hanging = batch_of([chat_line("slow")])
    eventually(lambda: client.batches.retrieve(hanging).status == "IN_PROGRESS")
    assert client.batches.cancel(hanging).status in {"CANCELING", "CANCELLED"}
    ended = deployment.finished(hanging)
    assert (ended.status, ended.output_file_id) == ("CANCELLED", None)
    assert deployment.lines(ended.error_file_id)[0]["error"]["code"] == "cancelled"


def test_processes_that_are_killed_lose_nothing_and_buy_nothing_twice(
    deployment: Deployment,
    simulator: Simulator,
    processes: Processes,
    api_process: Running,
    tmp_path: Path,
) -> None:
    file_id = deployment.client.files.upload(chats(tmp_path, "a", "b"), purpose="batch-api").id
    api_process.kill()
    again = processes.haulier("api", "--port", "0", HAULIER_CRASH_AT="accept.stored")
    client = Together(
        base_url=f"{started_url(again)}/together/v1", api_key=deployment.token, max_retries=0
    )
    with pytest.raises(together.APIConnectionError):  # stored, and the answer is lost
        client.batches.create(endpoint=CHAT, input_file_id=file_id)
    deployment.url = started_url(processes.haulier("api", "--port", "0"))
    deployment.client = deployment.client_of(deployment.token)

    # As the SDK sends it after an answer that did not come.
    made = deployment.client.batches.create(
        endpoint=CHAT, input_file_id=file_id, extra_headers={"x-stainless-retry-count": "1"}
    ).job
    assert made is not None
    simulator.hold("create", after_commit=True)
    worker = deployment.work()
    simulator.wait_held("create", timeout=30)
    worker.kill()
    simulator.release("create", answered=False)
    simulator.clear_faults()
    deployment.pipeline.worker()
    batch = deployment.finished(made.id or "")

    assert batch.status == "COMPLETED"
    assert [line["custom_id"] for line in deployment.lines(batch.output_file_id)] == ["a", "b"]
    assert [listed.id for listed in deployment.client.batches.list()] == [batch.id]
    assert simulator.batches_created == 1
