"""Tables in and out of the command line, and answers as text."""

import csv
import gzip
import io
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from pyarrow import parquet

from service.cli.submit.sources import BLOCK
from service.cli.up.ports import free_port
from tests.cli import Cli, requests
from tests.eventually import eventually
from tests.factories import chat_line
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


def test_tables_and_lines_come_as_they_are(working: Cli, work: Path, simulator: Simulator) -> None:
    simulator.line_rule("tool_call", custom_id="1")
    (work / "in.csv").write_bytes(b"id;question\r\n1;one, two\r\n2;three\r\n")
    mistaken = working("submit", "in.csv", *ASK, "--id-column", "id")
    assert (mistaken.status, mistaken.out) == (2, "")
    assert "this looks separated by semicolons: --delimiter ';'" in mistaken.err

    (work / "in.txt.gz").write_bytes(gzip.compress((work / "in.csv").read_bytes()))
    table = ("--delimiter", ";", "--id-column", "id", "--wait", "--output", "out.csv", "--bom")
    done = working("submit", "in.txt.gz", *ASK, *table)
    assert done.status == 0, done.err
    written = (work / "out.csv").read_bytes()
    assert written.startswith(b"\xef\xbb\xbfcustom_id")
    rows = list(csv.DictReader(io.StringIO(written.decode("utf-8-sig"), newline="")))
    assert (rows[1]["text"], rows[1]["tool_calls"]) == ("echo: three", "")
    assert (rows[0]["text"], rows[0]["finish_reason"]) == ("", "tool_calls")
    assert json.loads(rows[0]["tool_calls"])[0]["function"]["name"] == "look_up"
    text = working("results", done.out.strip(), "--text")
    assert [line[:1] for line in text.out.splitlines()] == ["[", "e"]

    simulator.line_rule("no_choices", custom_id="a")

    shaped = requests("a").replace(
        b'"custom_id"', b'"method": "POST", "url": "/v1/chat/completions", "custom_id"'
    )
    for options in ([], ["--model", "m/one"]):
        done = working("submit", "-", *options, "--wait", stdin=gzip.compress(shaped))
        assert done.status == 0, done.err
        silent = working("results", done.out.strip(), "--text")
        assert (silent.out, "1 of 1 answers hold no text" in silent.err) == ("\n", True)
        shown = working("show", done.out.strip())
        assert re.search("^odd answers +1 without choices or text$", shown.out, re.MULTILINE)
    refused = working("submit", "-", stdin=shaped.replace(b"/v1/chat", b"/v1/other"))
    assert (refused.status, refused.out) == (2, "")
    assert 'line 1: has "url": "/v1/other/completions"' in refused.err


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


def test_a_download_that_breaks_off_goes_on_where_it_was(
    working: Cli, work: Path, simulator: Simulator
) -> None:
    job = working.submit(*(f"{number:060}" for number in range(2000)))
    assert working("watch", job).status == 0
    whole = working("results", job).out.encode()
    with breaking(working.url, after=len(whole) // 2) as (url, heads):
        done = working("results", job, "--output", "out.jsonl", HAULIER_URL=url)
    assert done.status == 0, done.err
    assert (work / "out.jsonl").read_bytes() == whole
    first, second = heads
    assert b"range" not in first.lower()
    assert b"range: bytes=" in second.lower()
    assert b"if-range: " in second.lower()


@contextmanager
def breaking(url: str, *, after: int) -> Iterator[tuple[str, list[bytes]]]:
    """An address that hands on one call each to the API, and drops the first within its answer.

    Gives the address, and the heads of the calls.
    """
    heads: list[bytes] = []
    place = urlsplit(url)

    def hand_on(listening: socket.socket) -> None:
        for limit in (after, None):
            with suppress(OSError):  # closed: nobody calls a second time
                caller, _ = listening.accept()
                with caller, socket.create_connection((place.hostname, place.port)) as api:
                    heads.append(caller.recv(1 << 16))
                    api.sendall(heads[-1].replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
                    answer = api.makefile("rb").read(limit if limit is not None else -1)
                    caller.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=hand_on, args=(listening,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", heads
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=10)


def completed(cli: Cli, *words: str, **more: str) -> list[str]:
    """What bash would offer for the last of the words."""
    typed = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        ["haulier"],
        executable=Path(sys.executable).with_name("haulier"),
        env={**cli.environment, **typed, "_HAULIER_COMPLETE": "complete_bash", **more},
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.slow
def test_bash_completes_commands_options_and_job_ids(cli: Cli) -> None:
    jobs = [cli.submit("a"), cli.submit("b")]
    assert completed(cli, "haulier", "wat") == ["watch"]
    assert "--prompt-column" in completed(cli, "haulier", "submit", "--pr")
    # An API that is slow just now is not waited for.
    eventually(lambda: completed(cli, "haulier", "show", "") == jobs[::-1])
    eventually(lambda: completed(cli, "haulier", "results", jobs[0][:13]) == [jobs[0]])
    away = f"http://127.0.0.1:{free_port()}"
    assert completed(cli, "haulier", "show", "", HAULIER_URL=away) == []
    assert completed(cli, "haulier", "show", "", HAULIER_POLL_SECONDS="never") == []


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
        (["in.jsonl", "--wait", "--output", "no/out.csv"], "no such directory"),
        (["in.jsonl", "--wait", "--output", "out.jsonl", "--bom"], "--bom"),
        (["in.jsonl", "--delimiter", ";"], "--delimiter"),
        (["in.csv", *ASK, "--delimiter", ";;"], "give one character"),
        (["in.parquet", *ASK, "--delimiter", ";"], "for CSV only"),
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


def test_what_can_be_submitted_can_be_estimated(absent: Cli, work: Path) -> None:
    lines = b"\n".join(chat_line(name) for name in "ab")
    (work / "lines.jsonl.gz").write_bytes(gzip.compress(lines))
    (work / "rows.csv").write_text("text\nx\ny\n")
    spec = {
        "endpoint": "/v1/chat/completions",
        "requests": [json.loads(chat_line(name)) for name in "ab"],
    }
    (work / "spec.json").write_text(json.dumps(spec, indent=1))
    asked = (
        ("lines.jsonl.gz",),
        ("rows.csv", "--template", "T {text}", "--model", "m"),
        ("--spec", "spec.json"),
    )
    for words in asked:
        (document,) = absent("estimate", *words, "--json").documents
        assert document["requests"] == 2, words
    (work / "spec.json").write_text('{"endpoint": "/v1/chat/completions", "input": "s3://b/k"}')
    refused = absent("estimate", "--spec", "spec.json")
    assert refused.status == 2
    assert "`input`" in refused.err
