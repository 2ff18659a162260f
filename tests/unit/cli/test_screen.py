"""What the command line shows: the text of others is read, and never obeyed."""

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli.screen import Column, Screen, clean, escaped, printable

ODD = "\x00\x07\x1b\x7f\x9b\u061c\u200b\u202e\u2028\u2066\ufeff\U000e0041"

documents = st.recursive(
    st.none() | st.integers() | st.text() | st.text(st.sampled_from(f'{ODD}aé\\"/\n\t')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(documents, st.sampled_from([None, 2, "\t"]))
def test_escaped_json_says_the_same_and_nothing_in_it_is_obeyed(
    document: object, indent: int | str | None
) -> None:
    written = json.dumps(document, ensure_ascii=False, indent=indent).replace("\n", "\r\n")
    shown = escaped(written)
    assert json.loads(shown) == document
    assert all(c.isprintable() or c in "\n\t" for c in shown)


def test_what_is_shown_holds_nothing_that_a_terminal_would_obey() -> None:
    stream = io.StringIO()
    screen = Screen(stream)
    screen.line(f"a{ODD}b")
    screen.table((Column("[red]model"), Column("n", number=True)), [(f"[bold]{ODD}[/bold]", 1)])
    screen.fields([("name", f"{ODD}:warning:")])
    shown = stream.getvalue()
    assert all(c.isprintable() or c == "\n" for c in shown)
    for kept in ("[red]model", "[bold]", "[/bold]", ":warning:"):
        assert kept in shown


def test_cleaned_text_is_one_line_and_printable_text_keeps_its_own() -> None:
    assert clean("a\r\n\x1b[31mb\tc") == "a   [31mb c"
    assert clean("👩\u200d👧 全角\u3000") == "👩\u200d👧 全角\u3000"
    assert printable("a\r\n\x1b[31mb\tc") == "a \n [31mb\tc"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (80, ["at", "object", "number"]),
        (37, ["at", "object", "number"]),
        (36, ["at", "object"]),
        (26, ["at", "object"]),
        (20, ["at"]),
        (3, ["at"]),
    ],
)
def test_a_narrow_terminal_is_shown_fewer_columns_and_each_of_them_whole(
    monkeypatch: pytest.MonkeyPatch, width: int, shown: list[str]
) -> None:
    for name, value in {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": str(width)}.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    columns = (Column("at"), Column("object", wrap=True, least=12), Column("number", number=True))

    Screen(stream).table(columns, [("x" * 10, "producers/billing", 1_000_000)] * 2)

    title, *lines = re.sub("\x1b\\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert title.split() == shown
    assert ("producers/bi" in "".join(lines)) is ("object" in shown)
    assert ("ing" in "".join(lines)) is ("object" in shown)
    assert ("1,000,000" in "".join(lines)) is ("number" in shown)
