"""The process that runs schemas and expressions: no answer and no schema can stop the work."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from service.rules.check_process import Reply
from service.rules.checks import read_check
from service.stages import checker
from service.stages.checker import Checker

GOOD, BAD, ENDLESS, WORD = range(4)


def endless(levels: int) -> dict[str, Any]:
    """A schema of a few kilobytes that takes years."""
    twice = {
        f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$ref": "#/$defs/a0", "$defs": {**twice, f"a{levels}": {"type": "integer"}}}


@pytest.fixture(scope="module")
def running() -> Any:
    checks: list[Any] = [
        {"json_schema": {"type": "object", "properties": {"a": {"type": "string"}}}},
        [{"regex": "^x"}, {"json_schema": {"type": "integer"}}],
        {"json_schema": endless(40)},
        {"regex": "^(a+)+$"},
    ]
    with Checker([read_check(check).costly for check in checks]) as made:
        yield made


@pytest.mark.parametrize(
    ("check", "texts", "reason"),
    [
        (GOOD, ['{"a": "b"}'], None),
        (GOOD, ['{"a": "b"}', "{}"], None),
        (GOOD, ["[]"], "its / breaks the rule /type of `json_schema`"),
        (GOOD, ['{"a": 1}'], "its /a breaks the rule /properties/a/type of `json_schema`"),
        (GOOD, ["{}", '{"a": 1}'], "text 2: its /a breaks the rule /properties/a/type"),
        (GOOD, ["no"], "it is not JSON"),
        (GOOD, ["[" * 100_000], "it is not JSON"),
        (GOOD, ["{}" + "9" * 100_000], "it is not JSON"),
        (BAD, ["7"], "it does not match `regex`"),
        (WORD, ["a" * 1_000_000 + "b"], "it does not match `regex`"),
        (WORD, ["a" * 1_000_000], None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_answer_is_checked(
    running: Checker, check: int, texts: list[str], reason: str | None
) -> None:
    (reply,) = running.replies(check, [texts])
    assert not reply.stopped
    assert (reply.reason is None) if reason is None else (reply.reason or "").startswith(reason)


def test_a_check_that_takes_years_is_stopped_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch, running: Checker
) -> None:
    monkeypatch.setattr(checker, "MOST_STOPPED", 1)
    answers = [['"quick"'], *[["1"]] * 30]

    replies = running.replies(ENDLESS, answers)

    assert [reply.stopped for reply in replies] == [False, *[True] * 30]
    assert running.replies(GOOD, [["{}"]]) == [Reply()]


def test_the_end_of_the_process_for_another_reason_fails_no_answer(running: Checker) -> None:
    running.replies(GOOD, [["{}"]])
    assert running._process is not None
    os.kill(running._process.pid, signal.SIGKILL)
    with pytest.raises(OSError, match="process that checks answers ended"):
        running.replies(GOOD, [["{}"]])
    assert running.replies(GOOD, [["{}"]]) == [Reply()]


def test_the_process_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", "secret")
    with Checker([read_check({"regex": "a"}).costly]) as made:
        made.replies(0, [["a"]])
        assert made._process is not None
        environ = Path(f"/proc/{made._process.pid}/environ").read_bytes()
    names = {entry.partition(b"=")[0].decode() for entry in environ.split(b"\0")}
    assert names - {""} <= set(checker._NEEDED)
