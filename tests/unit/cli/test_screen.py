"""What the command line shows: the text of others is read, and never obeyed."""

import io
import json
import re
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from service.cli.screen import Screen, clean, escaped, printable
from service.cli.tables import Column, UnknownColumn, fit, natural_widths

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


def shown_at(
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    columns: Sequence[Column],
    rows: Sequence[Sequence[object]],
) -> list[str]:
    """The lines of a table on a terminal of that width, without its colours."""
    for name, value in {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": str(width)}.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    Screen(stream).table(columns, rows)
    return re.sub("\x1b\\[[0-9;]*m", "", stream.getvalue()).splitlines()


@pytest.mark.parametrize(
    ("width", "titles", "left_out"),
    [
        (80, ["at", "object", "number", "spare"], ""),
        (44, ["at", "object", "number"], "spare"),
        (39, ["at", "object", "number"], "spare"),
        (38, ["at", "object"], "number, spare"),
        (30, ["at", "object"], "number, spare"),
    ],
)
def test_a_narrow_terminal_is_shown_the_important_columns_and_told_of_the_others(
    monkeypatch: pytest.MonkeyPatch, width: int, titles: list[str], left_out: str
) -> None:
    columns = (
        *(Column("at"), Column("object", wrap=True, rank=0)),
        *(Column("number", number=True), Column("spare", rank=2)),
    )
    rows = [("x" * 10, "producers/billing/tokens", 1_000_000, "123456")] * 2
    title, *lines = shown_at(monkeypatch, width, columns, rows)
    assert title.split() == titles
    said = " ".join(lines)
    assert (f"Left out: {left_out} (--json shows all)" in said) is bool(left_out)
    assert sum("1,000,000" in line for line in lines) == (2 if "number" in titles else 0)


def test_what_is_too_wide_for_any_table_is_shown_field_by_field(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns = (Column("job"), Column("model", rank=0), Column("age"))
    shown = shown_at(monkeypatch, 40, columns, [("j" * 36, "m" * 60, 1_234_567)])
    assert shown == [f"job    {'j' * 36}", f"model  {'m' * 60}", "age    1,234,567", ""]


def test_chosen_columns_are_shown_in_their_order_and_wrong_names_are_told_all() -> None:
    columns = (Column("job"), Column("last seen"), Column("cost (USD)", extra=True))
    rows = [("j", "1 s", lambda: "0.5")]
    stream = io.StringIO()
    Screen(stream).table(columns, rows, ["Cost", "last_seen"])
    assert [line.split() for line in stream.getvalue().splitlines()] == [
        ["cost", "(USD)", "last", "seen"],
        ["0.5", "1", "s"],
    ]
    stream = io.StringIO()
    Screen(stream).table(columns, [("j", "1 s", None)])
    assert "cost" not in stream.getvalue()
    with pytest.raises(UnknownColumn, match="'nix'; choose from job, last-seen, cost"):
        Screen(stream).table(columns, rows, ["nix"])


CELLS = st.none() | st.uuids().map(str) | st.text(st.sampled_from("ab19 -_/全é.,"), max_size=90)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Column], list[list[object]]]:
    """A table of any shape, and rows for it."""
    columns = [
        Column(f"{place}title", number=number, wrap=wrap and not number, rank=rank)
        for place, (number, wrap, rank) in enumerate(
            draw(
                st.lists(
                    st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)),
                    min_size=1,
                    max_size=9,
                )
            )
        )
    ]
    cells = [st.integers(0, 10**15) if column.number else CELLS for column in columns]
    return columns, draw(st.lists(st.tuples(*cells).map(list), min_size=1, max_size=3))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables(), st.integers(60, 200))
def test_no_table_cuts_a_value_at_any_width(
    monkeypatch: pytest.MonkeyPatch, table: tuple[list[Column], list[list[object]]], width: int
) -> None:
    columns, rows = table
    lines = shown_at(monkeypatch, width, columns, rows)
    end = next((at for at, line in enumerate(lines) if line.startswith("Left out: ")), len(lines))
    hidden = re.findall(r"\dtitle", " ".join(lines[end:]))
    lines = lines[:end]
    visible = [place for place, column in enumerate(columns) if column.title not in hidden]
    assert 0 in visible
    assert all(columns[place].rank > 0 or place in visible for place in range(len(columns)))

    cells = [told(row[place]) for row in rows for place in visible]
    for place in visible:
        for row in rows:
            assert columns[place].wrap or any(told(row[place]).strip() in line for line in lines)
    titles = [columns[place].title for place in visible]
    if not fit(columns, natural(columns, rows), width).is_stacked:
        assert all(cell_len(line.rstrip()) <= width for line in lines)
        assert letters("".join(lines)) == letters("".join((*titles, *cells)))


def told(value: object) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def letters(words: str) -> Counter[str]:
    return Counter(words.replace(" ", "").replace("\u3000", ""))


def natural(columns: Sequence[Column], rows: Sequence[Sequence[object]]) -> list[int]:
    return natural_widths(columns, [[Text(told(cell)) for cell in row] for row in rows])


def test_values_are_broken_between_words_and_stay_below_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    Screen(stream).fields([("why", f"a few words and then {'x' * 40} and 全角全角 more of them")])
    lines = [line.rstrip() for line in re.sub("\x1b.*?m", "", stream.getvalue()).splitlines()]
    assert lines == [
        "why  a few words and then",
        f"     {'x' * 40}",
        "     and 全角全角 more of them",
    ]
