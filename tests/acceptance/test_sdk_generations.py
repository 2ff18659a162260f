"""Older SDKs of Together's, each in an environment of its own: scripts and command lines that were
written for them, unmodified, against Haulier."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.store import producers
from tests.api import started_url
from tests.pipeline import Pipeline
from tests.processes import Running
from tests.simulator import Simulator
from tests.together_by_hand import chat_line, jsonl
from tests.venvs import python_with

SCRIPTS = Path(__file__).parent / "generations"
Run = Callable[..., str]


@dataclass(frozen=True)
class Generation:
    """Versions of the SDK that are called alike."""

    script: str
    errors: tuple[str, ...]
    """What it raises for an unknown file, an unknown batch, a wrong token, a wrong endpoint."""
    commands: tuple[str, ...]
    """Commands that list, show and download; the file's and the batch's id are put in."""


FIRST = Generation(
    "together_1.py",
    ("InvalidRequestError 404",) * 2 + ("AuthenticationError 401", "InvalidRequestError 400"),
    ("files list", "files retrieve {file}", "files retrieve-content {file} --output {copy}"),
)
SECOND = Generation(
    "together_2.py",
    ("NotFoundError 404",) * 2 + ("AuthenticationError 401", "BadRequestError 400"),
    ("files retrieve {file}", "files retrieve-content {file} --output {copy}"),
)
WITH_BATCHES = Generation(
    SECOND.script,
    SECOND.errors,
    ("files list --json", "batches ls --json", "batches download {batch} --output {copy}"),
)


@pytest.fixture
def run(pipeline: Pipeline, api_process: Running, simulator: Simulator, tmp_path: Path) -> Run:
    """Runs a program as a producer's user; gives what it printed."""
    simulator.line_rule("error", custom_id="c", message="Invalid model specified")
    pipeline.scheduler()
    pipeline.worker()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TOGETHER_BASE_URL": f"{started_url(api_process)}/together/v1",
        "TOGETHER_API_KEY": producers.add_producer(pipeline.db, "billing").text,
        "TOGETHER_NO_BANNER": "1",
        "TOGETHER_TELEMETRY_DISABLED": "1",
        "TOGETHER_DISABLE_VERSION_CHECK": "1",
    }

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [*map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.slow  # pip installs each of them, the first time
@pytest.mark.parametrize(
    ("version", "generation"),
    [
        ("1.5.13", FIRST),
        ("1.6.0", FIRST),
        ("2.0.0", SECOND),
        ("2.42.0", WITH_BATCHES),
        ("3.1.1", WITH_BATCHES),
    ],
)
def test_what_was_written_for_an_sdk_runs_with_it(
    run: Run, tmp_path: Path, version: str, generation: Generation
) -> None:
    python = python_with(f"together=={version}")
    path, copy = tmp_path / "batch_input.jsonl", tmp_path / "copy.jsonl"
    path.write_bytes(jsonl(map(chat_line, "abc")))

    said = run(python, SCRIPTS / generation.script, path, copy).splitlines()[-1]

    file_id, batch_id, *shown = json.loads(said)
    assert shown == ["COMPLETED", 100.0, ["a", "b"], ["c"], list(generation.errors)]
    for command in generation.commands:
        copy.unlink(missing_ok=True)
        asked = command.format(file=file_id, batch=batch_id, copy=copy).split()
        answered = run(python.with_name("together"), *asked)
        assert copy.exists() if "{copy}" in command else file_id in answered or batch_id in answered
