"""Tables in and out of the command line, and answers as text."""

import csv
import io
import json
from pathlib import Path

import pytest
from pyarrow import parquet

from service.cli.sources import BLOCK
from tests.cli import Cli, requests
from tests.simulator import Simulator

ASK = ("--model", "m/one", "--prompt-column", "question")


def test_a_table_goes_in_and_its_answers_come_out(
    working: Cli, work: Path, simulator: Simulator
) -> None:
    simulator.line_rule("error", custom_id="bad", message="invalid model")
    (work / "in.csv").write_text('id,question\r\nb,one\r\nbad,two\r\na,"three\nfour"\r\n')
    done = working("submit", "in.csv", *ASK, "--id-column", "id", "--wait", "--output", "out.csv")

    assert done.status == 1  # one request has failed
    assert "3 results in out.csv" in done.err
    rows = list(csv.DictReader(io.StringIO((work / "out.csv").read_bytes().decode(), newline="")))
    assert [row["custom_id"] for row in rows] == ["b", "bad", "a"]
    assert rows[0]["text"] == "echo: one"
    assert (rows[1]["text"], "invalid model" in rows[1]["error"]) == ("", True)
    assert rows[2]["text"] == "echo: three\nfour"

    job = done.out.strip()
    text = working("results", job, "--text")
    assert text.out == "echo: one\n\necho: three\nfour\n"
    assert "1 of 3 requests failed" in text.err
    told = working("results", job, "--output", "out.parquet", "--json").documents[0]
    assert told["lines"] == 3
    table = parquet.read_table(work / "out.parquet").to_pylist()
    assert [row["text"] for row in table] == ["echo: one", None, "echo: three\nfour"]
    assert sorted(path.name for path in work.iterdir()) == ["in.csv", "out.csv", "out.parquet"]


def test_a_bad_row_far_down_leaves_no_job_behind(cli: Cli, work: Path) -> None:
    rows = [f"{'x' * 1000}\n" for _ in range(3 * BLOCK // 1000)]
    (work / "in.csv").write_text("".join(["question\n", *rows, "one,two\n"]))
    done = cli("submit", "in.csv", *ASK)
    assert (done.status, done.out) == (2, "")
    (word,) = done.err.splitlines()
    assert word.startswith(f"haulier: in.csv: row {len(rows) + 1:,} (line {len(rows) + 2:,}) has 2")

    form = ("--format", "csv", "--id-column", "id")
    twice = cli("submit", "-", *form, *ASK, stdin=b"id,question\na,1\na,2\n")
    assert (twice.status, twice.out) == (2, "")
    assert "line 2: custom_id 'a' was used before" in twice.err
    assert "line 1 is the first below the header" in twice.err
    assert cli("jobs", "--json").documents == []


def test_the_model_is_named_once_for_all_lines(working: Cli) -> None:
    bare = b'{"custom_id":"c","body":{"messages":[{"role":"user","content":"hi"}]}}\n'
    done = working("submit", "-", "--model", "m/one", "--wait", stdin=requests("a") + bare)
    assert done.status == 0, done.err
    lines = [json.loads(line) for line in working("results", done.out.strip()).out.splitlines()]
    models = [line["response"]["body"]["model"] for line in lines]
    assert models == ["meta-llama/Llama-3.3-70B-Instruct-Turbo", "m/one"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["in.csv", "--prompt-column", "q"], "--model"),
        (["in.csv", "--model", "m"], "--prompt-column"),
        (["in.csv", "--model", "m", "--template", "{q!r}"], "column"),
        (["in.csv", *ASK, "--param", "n"], "NAME=VALUE"),
        (["in.csv", *ASK, "--endpoint", "/v1/audio/transcriptions"], "JSONL"),
        (["in.jsonl", "--template", "{q}"], "--template"),
        (["-", "--format", "parquet", *ASK], "pipe"),
        (["--spec", "in.json", "--model", "m"], "--model"),
        (["in.jsonl", "--output", "out.csv"], "--wait"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    absent: Cli, work: Path, arguments: list[str], words: str
) -> None:
    for name in ("in.csv", "in.jsonl", "in.json"):
        (work / name).write_text("question\n")
    done = absent("submit", *arguments)
    assert (done.status, done.out) == (2, "")
    assert words in done.err
