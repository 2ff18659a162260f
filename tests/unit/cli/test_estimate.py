"""`haulier estimate`: what a file would be as a job, without asking anybody."""

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from config.settings import Settings
from service.cli.submit.measure import FileEstimate, measured
from service.rules.errors import BadInput
from service.rules.requests import AUDIO, CHAT
from tests.factories import chat_line
from tests.processes import HAULIER

PRICES = {"m": [{"from": "2020-01-01", "input": "4", "output": "8"}]}


def estimated(*lines: bytes, endpoint: str = CHAT, **fields: Any) -> FileEstimate:
    settings = Settings.model_validate({"prices": PRICES, **fields})
    return measured([b"\n".join(lines)], endpoint, settings)


def test_a_file_is_counted_and_cut_as_a_submission_would_be() -> None:
    lines = [chat_line(f"r{number}", model="m", max_tokens=10) for number in range(5)]
    found = estimated(*lines, shard_requests=2)

    assert (found.requests, found.shards) == (5, 3)
    assert found.bytes == sum(map(len, lines)) + 5
    (model,) = found.models
    assert model.prompt_tokens == -(-found.bytes // 4)
    assert model.completion_tokens_at_most == 50


def test_cost_is_with_the_discount_and_bounded_by_max_tokens() -> None:
    found = estimated(chat_line("a", model="m", max_tokens=1_000_000, n=2))
    tokens = found.models[0].prompt_tokens or 0

    assert found.prompt_cost == f"{tokens * 2 / 1_000_000:f}"
    assert found.cost_at_most == f"{8 + tokens * 2 / 1_000_000:f}"


@pytest.mark.parametrize("body", [{}, {"max_tokens": None}, {"max_tokens": 10**30}])
def test_without_max_tokens_there_is_no_bound(body: dict[str, Any]) -> None:
    found = estimated(chat_line("a", model="m", max_tokens=5), chat_line("b", model="m", **body))

    assert found.models[0].completion_tokens_at_most is None
    assert found.cost_at_most is None
    assert found.prompt_cost is not None


def test_a_model_without_a_price_is_named() -> None:
    found = estimated(chat_line("a", model="m"), chat_line("b", model="x"))

    assert found.unknown_models == ["x"]
    assert found.prompt_cost is None
    assert [one.model for one in found.models] == ["m", "x"]


def test_audio_has_no_tokens() -> None:
    line = {"custom_id": "a", "method": "FILE", "body": {"model": "m", "file": "https://x/y.mp3"}}
    found = estimated(msgspec.json.encode(line), endpoint=AUDIO[0])

    assert found.models[0].prompt_tokens is None
    assert found.cost_at_most is None
    assert found.unknown_models == []


def test_bad_lines_are_named_by_their_numbers() -> None:
    lines = [chat_line("a", model="m"), b"{", chat_line("a", model="m")]
    with pytest.raises(BadInput) as refusal:
        estimated(*lines)
    assert [problem.line for problem in refusal.value.problems] == [2, 3]


def test_repeated_ids_are_found_across_batches() -> None:
    lines = [chat_line(name, model="m") for name in ("a", "b", "c", "d", "a")]
    with pytest.raises(BadInput, match="line 5"):
        estimated(*lines, shard_requests=1)


def test_a_carriage_return_within_a_line_ends_no_line() -> None:
    found = estimated(chat_line("a", model="m").replace(b":", b":\r"))
    assert found.requests == 1


def test_the_command_reads_stdin_and_says_what_is_wrong(tmp_path: Path) -> None:
    def run(*arguments: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
        argv = [*HAULIER, "estimate", *arguments]
        return subprocess.run(argv, input=given, capture_output=True, cwd=tmp_path, check=False)

    fine = run("-", "--json", given=chat_line("a", model="m"))
    assert fine.returncode == 0
    assert msgspec.json.decode(fine.stdout)["requests"] == 1
    bad = run("-", given=b"{")
    assert (bad.returncode, bad.stdout) == (2, b"")
    assert b"line 1" in bad.stderr
    missing = run("nowhere.jsonl", given=b"")
    assert missing.returncode == 2
    assert b"cannot read nowhere.jsonl" in missing.stderr
