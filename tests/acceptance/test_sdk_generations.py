"""Scripts for older SDKs of Together's, unmodified, each with its own SDK, against Haulier."""

import json
import os
import subprocess
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
NOT_FOUND, UNKNOWN_TOKEN, REFUSED = (
    "NotFoundError 404",
    "AuthenticationError 401",
    "BadRequestError 400",
)


@pytest.mark.slow  # pip installs each of them, the first time
@pytest.mark.parametrize(
    ("version", "script", "errors"),
    [
        (
            "1.5.13",
            "together_1.py",
            ["InvalidRequestError 404"] * 2 + [UNKNOWN_TOKEN, "InvalidRequestError 400"],
        ),
        (
            "1.6.0",
            "together_1.py",
            ["InvalidRequestError 404"] * 2 + [UNKNOWN_TOKEN, "InvalidRequestError 400"],
        ),
        ("2.0.0", "together_2.py", [NOT_FOUND, NOT_FOUND, UNKNOWN_TOKEN, REFUSED]),
        ("2.42.0", "together_2.py", [NOT_FOUND, NOT_FOUND, UNKNOWN_TOKEN, REFUSED]),
        ("3.1.1", "together_2.py", [NOT_FOUND, NOT_FOUND, UNKNOWN_TOKEN, REFUSED]),
    ],
)
def test_a_script_runs_with_the_sdk_that_it_was_written_for(
    pipeline: Pipeline,
    api_process: Running,
    simulator: Simulator,
    tmp_path: Path,
    version: str,
    script: str,
    errors: list[str],
) -> None:
    python = python_with(f"together=={version}")
    simulator.line_rule("error", custom_id="c", message="Invalid model specified")
    pipeline.scheduler()
    pipeline.worker()
    path = tmp_path / "batch_input.jsonl"
    path.write_bytes(jsonl(map(chat_line, "abc")))

    done = subprocess.run(
        [str(python), str(SCRIPTS / script), str(path), str(tmp_path / "copy.jsonl")],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "TOGETHER_BASE_URL": f"{started_url(api_process)}/together/v1",
            "TOGETHER_API_KEY": producers.add_producer(pipeline.db, "billing").text,
            "TOGETHER_NO_BANNER": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [
        "COMPLETED", 100.0, ["a", "b"], ["c"], errors
    ]  # fmt: skip
