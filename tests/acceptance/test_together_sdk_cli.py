"""Together's own command line, `tg`, works against the simulator."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulator import KEY, Simulator
from tests.together_by_hand import ByHand, chat_line, jsonl

Tg = Callable[..., str]


@pytest.fixture
def tg(simulator: Simulator, tmp_path: Path) -> Tg:
    """Runs `tg` with an address and a key, kept from calling home. Returns what it printed."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TOGETHER_BASE_URL": simulator.url,
        "TOGETHER_API_KEY": KEY,
        "TOGETHER_TELEMETRY_DISABLED": "1",
        "TOGETHER_DISABLE_VERSION_CHECK": "1",
    }

    def run(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "tg"), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def input_file(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(jsonl([chat_line("a"), chat_line("b"), {"custom_id": "bad", "body": {}}]))
    return path


def test_a_batch_from_a_local_file_to_its_results(
    tg: Tg, simulator: Simulator, input_file: Path, tmp_path: Path
) -> None:
    submitted = json.loads(tg("batches", "submit", str(input_file), "chat.completions", "--json"))
    batch_id = submitted.get("job", submitted)["id"]
    with ByHand(simulator.url) as api:
        api.ended(batch_id)
    assert json.loads(tg("batches", "get", batch_id, "--json"))["status"] == "COMPLETED"
    assert [listed["id"] for listed in json.loads(tg("batches", "ls", "--json"))] == [batch_id]
    tg("batches", "download", batch_id, "--output", str(tmp_path / "out.jsonl"))
    output = (tmp_path / "out.jsonl").read_text().splitlines()
    errors = (tmp_path / "out.errors.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["custom_id"] for line in output) == ["a", "b"]
    assert [json.loads(line)["custom_id"] for line in errors] == ["bad"]


@pytest.mark.slow
def test_files_are_uploaded_listed_shown_downloaded_and_deleted(
    tg: Tg, simulator: Simulator, input_file: Path, tmp_path: Path
) -> None:
    uploaded = json.loads(
        tg("files", "upload", str(input_file), "--purpose", "batch-api", "--json")
    )
    file_id = uploaded["id"]
    assert uploaded["bytes"] == input_file.stat().st_size
    assert [file["id"] for file in json.loads(tg("files", "list", "--json"))] == [file_id]
    assert json.loads(tg("files", "retrieve", file_id, "--json"))["filename"] == "requests.jsonl"
    target = tmp_path / "downloads"
    tg("files", "download", file_id, "--output", str(target))
    assert (target / "requests.jsonl").read_bytes() == input_file.read_bytes()
    tg("files", "delete", file_id, "--json")
    assert simulator.books().totals.files_deleted == 1


def test_a_batch_is_cancelled(tg: Tg, simulator: Simulator, input_file: Path) -> None:
    simulator.batch_rule(hang=True)
    submitted = json.loads(tg("batches", "submit", str(input_file), "chat.completions", "--json"))
    batch_id = submitted.get("job", submitted)["id"]
    assert json.loads(tg("batches", "cancel", batch_id, "--json"))["status"] == "CANCELING"


@pytest.mark.slow
def test_a_wrong_key_and_an_unknown_batch_are_errors(tg: Tg, simulator: Simulator) -> None:
    assert "Job not found" in tg("batches", "get", "unknown", "--json", status=1)
    simulator.keys({KEY: 401})
    tg("batches", "ls", "--json", status=1)
