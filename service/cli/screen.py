"""Writing to a person on a terminal, or to whatever else reads the output."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate, islice
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

PAGE = 500
"""Rows that are laid out at a time."""

WIDE = 100_000
"""Columns of what is no terminal: nothing is cut off."""

GAP = 2
"""Spaces between two columns."""

STYLES = {
    "completed": "green",
    "settled": "green",
    "open": "green",
    "running": "cyan",
    "created": "cyan",
    "cancelled": "yellow",
    "paused": "red",
    "rejected": "red",
    "failed": "red",
}


@dataclass(frozen=True)
class Column:
    """One column of a table. Numbers stand to the right."""

    title: str
    number: bool = False
    wrap: bool = False
    """May be broken into several lines on a terminal; others keep to one."""
    least: int = 1
    """How narrow such a column may get."""


class Screen:
    """A text stream. Colours, and lines that change, only where it is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.console = Console(
            file=stream,
            force_terminal=self.is_terminal,
            width=None if self.is_terminal else WIDE,
            highlight=False,
            markup=False,
            emoji=False,
        )

    def line(self, text: str) -> None:
        """A line, at once. What a terminal would obey is shown as spaces."""
        self._write(f"{printable(text)}\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
        """Rows below the columns' titles. Words that are a state get its colour.

        Written page by page: there may be very many rows.
        """
        left = iter(rows)
        widths = [cell_len(column.title) for column in columns]
        titled = True
        while (page := [tuple(map(_cell, row)) for row in islice(left, PAGE)]) or titled:
            widths = [
                max(width, *(row[n].cell_len for row in page), 0) for n, width in enumerate(widths)
            ]
            # An id or a number that is cut is another one: where it gets narrow, the last columns
            # are left out.
            columns = columns[: self._room_for(columns, widths)]
            self._print(_page(columns, widths, page, titled=titled))
            titled = False

    def _room_for(self, columns: Sequence[Column], widths: Sequence[int]) -> int:
        """Return how many of the columns fit into a line; one at least."""
        least = map(_narrowest, columns, widths)
        # Rich keeps a gap behind the last one too.
        ends = accumulate(width + GAP for width in least)
        return max(sum(end <= self.console.width for end in ends), 1)

    def fields(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Names and values, one pair a line; those without a value are left out."""
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in pairs:
            if value is not None:
                table.add_row(name, _cell(value))
        self._print(table)

    def _print(self, table: Table) -> None:
        with self.console.capture() as captured:
            self.console.print(table)
        text = captured.get()
        if not self.is_terminal:
            text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
        self._write(text)


def _page(
    columns: Sequence[Column],
    widths: Sequence[int],
    rows: Sequence[Sequence[Text]],
    *,
    titled: bool,
) -> Table:
    table = Table(
        box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim", show_header=titled
    )
    for column, width in zip(columns, widths, strict=False):
        table.add_column(
            column.title,
            justify="right" if column.number else "left",
            min_width=_narrowest(column, width),
            no_wrap=not column.wrap,
            overflow="fold" if column.wrap else "ellipsis",
        )
    for row in rows:
        table.add_row(*row[: len(columns)])
    return table


def _narrowest(column: Column, width: int) -> int:
    """Return how narrow a column may get whose widest cell has this width."""
    return min(width, column.least) if column.wrap else width


def _cell(value: object) -> Text:
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, Text):
        return value
    if isinstance(value, int):
        return Text(f"{value:,}")
    if isinstance(value, datetime):
        return Text(local(value))
    return Text(clean(str(value)), style=STYLES.get(str(value), ""))


# Spaces and joiners that custom_ids may hold. No terminal obeys them, and without them the id that
# somebody copies would be another one.
_KEPT = "\u00a0\u3000\u200c\u200d"


def clean(text: str) -> str:
    """Text of others in one line, with nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() or c in _KEPT else " " for c in text)


def printable(text: str) -> str:
    """Text of others in its lines, with nothing else in it that a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" or c in _KEPT else " " for c in text)


def escaped(document: str) -> str:
    """Return JSON that says the same, with nothing in it that a terminal would obey."""
    if document.isprintable():
        return document
    # Outside of strings JSON has no control characters but white space.
    return "".join(c if c.isprintable() or c in "\n\t" else _escape(c) for c in document)


def _escape(character: str) -> str:
    return " " if character == "\r" else json.dumps(character)[1:-1]


def local(instant: datetime) -> str:
    """An instant in the reader's time zone."""
    return instant.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def length(span: timedelta) -> str:
    """How long something took, with the precision that one cares for."""
    seconds = span.total_seconds()
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def age(instant: datetime) -> str:
    """How long ago, roughly."""
    seconds = max(0, round((datetime.now(UTC) - instant).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def output() -> Screen:
    """Standard output."""
    return _screen(sys.stdout)


def notes() -> Screen:
    """Standard error: what is said beside the output."""
    return _screen(sys.stderr)


def _screen(stream: TextIO) -> Screen:
    if hasattr(stream, "reconfigure"):
        # Where the locale knows few characters, the others are replaced, not stumbled over.
        stream.reconfigure(errors="replace")
    return Screen(stream)
