"""What people type: instants, the beginnings of ids, and the examples that they are given."""

import shlex
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import typer

from service.cli.examples import EXAMPLES, commands, with_examples
from service.cli.main import app
from service.cli.show.jobs import _mark
from service.cli.when import instant


@pytest.fixture
def in_india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_india")
@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("2026-11-28", "2026-11-27T18:30:00Z"),
        ("2026-11-28T12:00", "2026-11-28T06:30:00Z"),
        ("2026-11-28 12:00:30", "2026-11-28T06:30:30Z"),
        ("2026-11-28T12:00:00Z", "2026-11-28T12:00:00Z"),
        ("2026-11-28t12:00:00+01:00", "2026-11-28T11:00:00Z"),
    ],
)
def test_an_instant_without_a_zone_is_the_readers(words: str, meant: str) -> None:
    assert instant(words) == meant


@pytest.mark.parametrize(
    ("words", "ago"),
    [
        *(("90s", timedelta(seconds=90)), ("15min", timedelta(minutes=15))),
        *(("1h", timedelta(hours=1)), ("2 d", timedelta(days=2)), ("1w", timedelta(weeks=1))),
        ("now", timedelta()),
    ],
)
def test_a_span_is_that_long_ago(words: str, ago: timedelta) -> None:
    found = datetime.fromisoformat(instant(words))
    assert abs(datetime.now(UTC) - ago - found) < timedelta(minutes=1)


def test_a_day_begins_at_midnight() -> None:
    today, yesterday = (datetime.fromisoformat(instant(w)) for w in ("today", "yesterday"))
    assert yesterday < today <= datetime.now(UTC)
    assert today.astimezone().strftime("%H:%M:%S") == "00:00:00"


@pytest.mark.parametrize("words", ["", "soon", "1y", "2026-13-01", "999999999w", "-1h", "1h\n2"])
def test_what_is_no_instant_is_refused_with_examples(words: str) -> None:
    with pytest.raises(typer.BadParameter, match="yesterday, 2026-11-28"):
        instant(words)


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        *(("run=mixed", "run:mixed"), ("run:mixed", "run:mixed"), ("a:b=c", "a:b=c")),
        *(("a=b:c=d", "a:b:c=d"), ('{"a": "b=c"}', '{"a": "b=c"}'), ("a", "a")),
    ],
)
def test_metadata_is_asked_for_with_an_equals_sign_or_a_colon(typed: str, sent: str) -> None:
    assert _mark(typed) == sent


COMMANDS = dict(commands(with_examples(app)))


def test_every_command_has_examples_and_no_example_is_without_a_command() -> None:
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_examples_can_be_typed_and_help_is_in_sentences(name: str) -> None:
    command = COMMANDS[name]
    assert (command.help or "").rstrip()[-1:] in {".", ":"}, command.help
    assert all(line in (command.epilog or "") for line in EXAMPLES[name])
    for line in EXAMPLES[name]:
        words = shlex.split(line.partition(" > ")[0])
        assert words[: 1 + len(name.split())] == ["haulier", *name.split()]
        # Nothing is looked up while a line is only read.
        command.make_context(name, words[1 + len(name.split()) :], resilient_parsing=True)
        for option in (word for word in words if word.startswith("-") and word != "-"):
            assert any(option in one.opts for one in command.params), option
