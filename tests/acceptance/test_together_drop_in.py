"""Together's own SDK, unmodified, against Haulier: behind each of its batches stands a job."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pytest
from together import Together

from service.store import producers
from tests.api import started_url
from tests.eventually import eventually
from tests.pipeline import Pipeline
from tests.processes import Running
from tests.together_by_hand import Json, chat_line, jsonl

CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TRANSCRIPTIONS: Literal["/v1/audio/transcriptions"] = "/v1/audio/transcriptions"
TERMINAL = ("COMPLETED", "FAILED", "EXPIRED", "CANCELLED")
GUIDE = Path(__file__).parents[2] / "docs" / "together-sdk.md"


class House:
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
        self.pipeline.scheduler()
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
def house(pipeline: Pipeline, api_process: Running) -> House:
    return House(pipeline, api_process)


def written(directory: Path, lines: Iterable[Json]) -> Path:
    path = directory / "batch_input.jsonl"
    path.write_bytes(jsonl(lines))
    return path


def chats(directory: Path, *custom_ids: str) -> Path:
    return written(directory, [chat_line(custom_id, "Say so.") for custom_id in custom_ids])


def test_the_tutorial_runs_as_it_is(house: House, tmp_path: Path) -> None:
    house.work()
    found = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found

    script = subprocess.run(
        [sys.executable, "-c", found[1]],
        cwd=tmp_path,
        env={
            **os.environ,
            "TOGETHER_BASE_URL": f"{house.url}/together/v1",
            "TOGETHER_API_KEY": house.token,
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
