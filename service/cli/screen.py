"""Writing to a person on a terminal, or to whatever else reads the output."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from service.cli.tables import (
    GAP,
    Column,
    Row,
    fit,
    in_columns,
    natural_widths,
    places_of,
    stacked,
)

PAGE = 500
"""Rows that are laid out at a time."""

WIDE = 100_000
"""Columns of what is no terminal: nothing is cut off."""

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


class Screen:
    """A text stream. Colours, and lines that change, only where it is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.console = self._console(None if self.is_terminal else WIDE)
        # What is laid out here has its widths already, and nothing may be cut to another.
        self._sheet = self._console(WIDE)

    def _console(self, width: int | None) -> Console:
        return Console(
            file=self.stream,
            force_terminal=self.is_terminal,
            width=width,
            highlight=False,
            markup=False,
            emoji=False,
        )

    @property
    def width(self) -> int:
        """Cells of a line."""
        return self.console.width

    def line(self, text: str) -> None:
        """A line, at once. What a terminal would obey is shown as spaces."""
        self._write(f"{printable(text)}\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def table(
        self,
        columns: Sequence[Column],
        rows: Iterable[Sequence[object]],
        chosen: Sequence[str] | None = None,
    ) -> None:
        """Rows below the columns' titles. Words that are a state get its colour.

        Written page by page: there may be very many rows. A terminal that is too narrow gets fewer
        columns, and a word on those that are left out. Of cells that are functions, those are
        called whose column is shown. Raises UnknownColumn if a column is `chosen` that is none.
        """
        places = places_of(columns, chosen)
        columns = [columns[place] for place in places]
        if chosen is not None:
            columns = [replace(column, rank=0) for column in columns]  # none is left out
        left = iter([_made(row[place]) for place in places] for row in rows)
        widths = [0] * len(columns)
        shown = None
        while (page := _page(left)) or shown is None:
            widths = list(map(max, widths, natural_widths(columns, page)))
            fitted = fit(columns, widths, self.width)
            if fitted.is_stacked:
                self.fields(stacked(columns, page))
            else:
                table = in_columns(columns, page, fitted)
                table.show_header = fitted.places != shown
                self._print(table)
            shown = fitted.places
        if hidden := [c.title for place, c in enumerate(columns) if place not in shown]:
            words = Text(f"Left out: {', '.join(hidden)} (--json shows all)", style="dim")
            for line in wrapped(words, self.width):
                self._print(line)

    def fields(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Names and values, one pair a line; those without a value are left out.

        Values are broken between words only.
        """
        found = [(name, _cell(value)) for name, value in pairs if value is not None]
        indent = max((cell_len(name) for name, _ in found), default=0) + GAP
        room = max(self.width - indent, 1)
        for name, value in found:
            for number, line in enumerate(wrapped(value, room)):
                label = name if number == 0 else ""
                gap = " " * (indent - cell_len(label))
                self._print(Text.assemble((label, "dim"), gap if line else "", line))

    def _print(self, shown: RenderableType) -> None:
        """Write something laid out. Its lines are as long as they are: the terminal wraps them."""
        with self._sheet.capture() as captured:
            self._sheet.print(shown)
        text = captured.get()
        if not self.is_terminal:
            text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
        self._write(text)


def wrapped(words: Text, width: int) -> list[Text]:
    """Break a text between words. A word that is too long stands whole on a line of its own."""
    breaks, used = [], 0
    for word in re.finditer(r"\S+\s*", words.plain):
        if used and used + cell_len(word[0].rstrip()) > width:
            breaks.append(word.start())
            used = 0
        used += cell_len(word[0])
    lines = list(words.divide(breaks))
    for line in lines:
        line.rstrip()
    return lines


def _made(cell: object) -> object:
    return cell() if callable(cell) else cell


def _page(rows: Iterator[Sequence[object]]) -> list[Row]:
    return [tuple(map(_cell, row)) for row in islice(rows, PAGE)]


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
    """An instant in the reader's time zone, and which that is."""
    return instant.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def length(span: timedelta) -> str:
    """How long something took, with the precision that one cares for."""
    seconds = span.total_seconds()
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def usd(amount: str) -> str:
    """A sum in USD, rounded to what one cares for: cents, or a ten-thousandth below a dollar."""
    value = Decimal(amount)
    if 0 < value < Decimal("0.0001"):
        return "<0.0001"
    return f"{value:,.2f}" if value >= 1 or not value else f"{value:.4f}"


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
