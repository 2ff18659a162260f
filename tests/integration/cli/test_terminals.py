"""Text of producers and providers on a terminal, in pipes, files and spreadsheets."""

import csv
import io
import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from tests.cli import Cli
from tests.factories import chat_line
from tests.pipeline import Pipeline
from tests.processes import HAULIER

ESCAPE = "\x1b]0;title\x07\x1b[2J"
FORMULA = '=HYPERLINK("https://example.com")'


@pytest.fixture
def job(working: Cli) -> str:
    """A job whose answers repeat what they were asked."""
    asked = {"-1": f"{ESCAPE}\u202eabc", "=2": FORMULA}
    lines = [
        chat_line(name, messages=[{"role": "user", "content": content}])
        for name, content in asked.items()
    ]
    done = working("submit", "-", "--wait", stdin=b"\n".join(lines))
    assert done.status == 0, done.err
    return done.out.strip()


def on_a_terminal(cli: Cli, *arguments: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*HAULIER, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**cli.environment, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "1000"},
        cwd=cli.directory,
    ) as process:
        os.close(theirs)
        shown = b"".join(_read(ours))
        assert process.wait(timeout=60) == 0, shown
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def _read(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            block = os.read(terminal, 1 << 16)
        except OSError:  # Linux says EIO when nobody writes any more
            return
        if not block:
            return
        yield block


def test_a_terminal_is_shown_results_and_not_what_they_would_do_to_it(
    working: Cli, job: str
) -> None:
    piped = working("results", job).out
    lines = on_a_terminal(working, "results", job)
    assert all(c.isprintable() or c == "\n" for c in lines)
    shown, sent = ([json.loads(line) for line in all_.splitlines()] for all_ in (lines, piped))
    assert shown == sent
    answers = on_a_terminal(working, "results", job, "--text")
    assert "\x1b" not in answers
    assert "\u202e" not in answers
    assert f"echo: {FORMULA}" in answers

    assert working("results", job, "--text").out == f"echo: {ESCAPE}\u202eabc\necho: {FORMULA}\n"
    assert ESCAPE in on_a_terminal(working, "results", job, "--text", "--raw")
    assert on_a_terminal(working, "results", job, "--raw") == piped


def test_a_spreadsheet_is_given_text_and_no_formulas(working: Cli, job: str, work: Path) -> None:
    assert working("results", job, "--output", "out.csv").status == 0
    assert working("results", job, "--output", "raw.csv", "--raw").status == 0
    defused, raw = (
        list(csv.DictReader(io.StringIO((work / name).read_bytes().decode(), newline="")))
        for name in ("out.csv", "raw.csv")
    )
    assert [row["custom_id"] for row in defused] == ["-1", "'=2"]
    assert [row["custom_id"] for row in raw] == ["-1", "=2"]
    assert int(defused[0]["prompt_tokens"]) > 0


def test_older_rows_with_odd_text_are_shown_and_told_in_full(cli: Cli, pipeline: Pipeline) -> None:
    odd = f"m{ESCAPE}\u202e"
    job = cli.submit("a")
    with pipeline.db.begin() as session:
        session.execute(text("UPDATE haulier.jobs SET last_error = :odd"), {"odd": odd})
        session.execute(text("UPDATE haulier.parts SET model = :odd"), {"odd": odd})
    for arguments in (["show", job], ["show", job, "--json"], ["jobs", "--json"]):
        shown = cli(*arguments)
        assert shown.status == 0, shown.err
        assert all(c.isprintable() or c == "\n" for c in shown.out)
    (document,) = cli("jobs", "--json").documents
    assert document["last_error"] == odd
    assert msgspec.json.decode(cli("show", job, "--json").out)["last_error"] == odd
