"""OpenAI's own SDK, unmodified, against Haulier: behind each of its batches stands a job."""

import asyncio
import json
from typing import Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from service.store import producers
from tests.api import started_url
from tests.eventually import eventually
from tests.pipeline import Pipeline
from tests.processes import Running
from tests.simulator import Simulator
from tests.together_by_hand import Json, chat_line, jsonl

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TERMINAL = {"completed", "failed", "expired", "cancelled"}


@pytest.fixture
def client(pipeline: Pipeline, api_process: Running) -> OpenAI:
    pipeline.scheduler()
    pipeline.worker()
    token = producers.add_producer(pipeline.db, "billing").text
    return OpenAI(base_url=f"{started_url(api_process)}/openai/v1", api_key=token)


def finished(client: OpenAI, batch_id: str) -> Any:
    def ended() -> Any:
        batch = client.batches.retrieve(batch_id)
        return batch if batch.status in TERMINAL else None

    return eventually(ended)


def created(client: OpenAI, lines: list[Json]) -> str:
    file = client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    return client.batches.create(completion_window="24h", endpoint=CHAT, input_file_id=file.id).id


def lines(client: OpenAI, file_id: str | None) -> list[Json]:
    assert file_id is not None
    content = client.files.content(file_id)
    assert client.files.retrieve(file_id).bytes == len(content.read())
    return [json.loads(line) for line in content.text.split("\n") if line]


def test_batches_end_as_at_openai(client: OpenAI, simulator: Simulator) -> None:
    simulator.line_rule("error", custom_id="c", message="Invalid model specified")
    batch = finished(client, created(client, [chat_line(name) for name in "abcd"]))

    assert batch.status == "completed"
    assert batch.request_counts.to_dict() == {"total": 4, "completed": 3, "failed": 1}
    output, errors = lines(client, batch.output_file_id), lines(client, batch.error_file_id)
    assert [line["custom_id"] for line in output] == ["a", "b", "d"]
    for line in output:
        assert line["response"]["status_code"] == 200
        assert line["response"]["body"]["choices"][0]["message"]["content"]
        assert line["error"] is None
        assert line["id"]
        assert line["response"]["request_id"]
    assert [(line["custom_id"], line["response"]) for line in errors] == [("c", None)]
    assert errors[0]["error"]["message"] == "Invalid model specified"
    assert asyncio.run(streamed(client, batch.output_file_id)) == 3

    bad = finished(client, created(client, [chat_line("a"), {"custom_id": "a"}]))
    assert bad.status == "failed"
    assert [error.line for error in bad.errors.data] == [2]

    simulator.batch_rule(hang=True)
    hanging = created(client, [chat_line("slow")])
    eventually(lambda: client.batches.retrieve(hanging).status == "in_progress")
    assert client.batches.cancel(hanging).status in {"cancelling", "cancelled"}
    ended = finished(client, hanging)
    assert (ended.status, ended.output_file_id) == ("cancelled", None)
    assert lines(client, ended.error_file_id)[0]["error"]["code"] == "cancelled"
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(hanging)


async def streamed(client: OpenAI, file_id: str) -> int:
    """How many lines the asynchronous SDK reads, piece by piece."""
    async with (
        AsyncOpenAI(base_url=client.base_url, api_key=client.api_key) as asynchronous,
        asynchronous.files.with_streaming_response.content(file_id) as response,
    ):
        return len([line async for line in response.iter_lines() if line])
