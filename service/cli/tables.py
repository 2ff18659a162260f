"""Which columns of a table fit into a line, and how wide each of them is.

A digit, an id or a word is never cut: columns of prose are wrapped, the least important columns are
left out, and what is too wide even so stands as one field a line.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

GAP = 2
"""Spaces between two columns."""

Row = Sequence[Text]


@dataclass(frozen=True)
class Column:
    """One column of a table. Numbers stand to the right."""

    title: str
    number: bool = False
    wrap: bool = False
    """May be broken into several lines on a terminal; others keep to one."""
    least: int = 16
    """How narrow such a column may get."""
    rank: int = 1
    """Where it gets narrow, the column with the highest rank is left out first, and of several the
    last. Columns of rank 0 and the first column are never left out."""
    extra: bool = False
    """Shown only if it is asked for."""

    @property
    def name(self) -> str:
        """What it is asked for by: its title without a unit, in lower case."""
        return _named(re.sub(r" *\(.*\)", "", self.title))


class UnknownColumn(ValueError):
    """A column was asked for that a table does not have."""


def _named(words: str) -> str:
    return re.sub(r"[\s_-]+", "-", words.strip().lower())


def places_of(columns: Sequence[Column], names: Sequence[str] | None) -> list[int]:
    """Return the places of the columns that were asked for, in that order.

    With None, all but the extra ones. Raises UnknownColumn.
    """
    if names is None:
        return [place for place, column in enumerate(columns) if not column.extra]
    known = {column.name: place for place, column in enumerate(columns)}
    wrong = [name for name in names if _named(name) not in known]
    if wrong or not names:
        said = f"there is no column {wrong[0]!r}" if wrong else "name at least one column"
        raise UnknownColumn(f"{said}; choose from {', '.join(known)}")
    return list(dict.fromkeys(known[_named(name)] for name in names))


@dataclass(frozen=True)
class Fit:
    """The columns that are shown, by their places in the row, and how wide each is."""

    places: tuple[int, ...]
    widths: tuple[int, ...]
    is_stacked: bool = False
    """Not even the most important columns fit: one field a line, and all of them."""


def natural_widths(columns: Sequence[Column], rows: Sequence[Row]) -> list[int]:
    """Return how wide each column is if nothing is wrapped."""
    return [
        max(cell_len(column.title), *(row[place].cell_len for row in rows), 0)
        for place, column in enumerate(columns)
    ]


def fit(columns: Sequence[Column], widths: Sequence[int], room: int) -> Fit:
    """Return which columns fit into `room` cells, of which each would like to be so wide."""
    places = list(range(len(columns)))
    while _total(places, columns, widths) > room:
        spare = [place for place in places[1:] if columns[place].rank > 0]
        if not spare:
            return Fit(tuple(range(len(columns))), tuple(widths), is_stacked=True)
        places.remove(max(spare, key=lambda place: (columns[place].rank, place)))
    return Fit(tuple(places), tuple(_shared(places, columns, widths, room)))


def _total(places: Sequence[int], columns: Sequence[Column], widths: Sequence[int]) -> int:
    least = sum(_narrowest(columns[place], widths[place]) for place in places)
    return least + GAP * (len(places) - 1)


def _narrowest(column: Column, width: int) -> int:
    """Return how narrow a column may get that would like to be so wide."""
    return min(width, max(column.least, cell_len(column.title))) if column.wrap else width


def _shared(
    places: Sequence[int], columns: Sequence[Column], widths: Sequence[int], room: int
) -> list[int]:
    """Give what is left of a line to the columns that are wrapped, to the narrowest first."""
    left = room - _total(places, columns, widths)
    given = {place: _narrowest(columns[place], widths[place]) for place in places}
    wanting = sorted(
        (place for place in places if given[place] < widths[place]),
        key=lambda place: widths[place] - given[place],
    )
    for number, place in enumerate(wanting):
        more = min(widths[place] - given[place], left // (len(wanting) - number))
        given[place] += more
        left -= more
    return [given[place] for place in places]


def in_columns(columns: Sequence[Column], rows: Sequence[Row], fitted: Fit) -> Table:
    """Return the rows as a table, below the titles of its columns."""
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim")
    for place, width in zip(fitted.places, fitted.widths, strict=True):
        column = columns[place]
        table.add_column(
            column.title,
            justify="right" if column.number else "left",
            width=width,
            no_wrap=not column.wrap,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(row[place] for place in fitted.places))
    return table


def stacked(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[tuple[str, Text]]:
    """Yield the fields of each row, its title first, and an empty one behind each row."""
    for row in rows:
        for column, cell in zip(columns, row, strict=True):
            yield column.title, cell
        yield "", Text("")
