"""Tables, row after row: a CSV file of any size takes little memory."""

import csv
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from service.rules.kinds import DELIMITERS, HEAD, binary_kind
from service.rules.requests import LINE_BYTES, LineSplitter


class BadInput(Exception):
    """What is wrong with a file and where, in words for whoever wrote it."""


@dataclass(frozen=True)
class Row:
    """The cells of one row by their columns' names. Numbers begin at 1, below the header."""

    number: int
    where: str
    cells: Mapping[str, str]


def csv_rows(
    blocks: Iterable[bytes], wanted: Sequence[str], *, delimiter: str = ","
) -> Iterator[Row]:
    """The rows of a CSV file in UTF-8, whose first line names the columns. Raises BadInput."""
    csv.field_size_limit(LINE_BYTES)
    number, begins = 0, 1
    try:
        reader = csv.reader(_text_lines(blocks), delimiter=delimiter, strict=True)
        header = next(reader, None)
        if not header:
            raise BadInput("is empty: its first line must name the columns")
        check_columns(header, wanted, hint=_other_delimiter(header, delimiter))
        begins = reader.line_num + 1
        for cells in reader:
            if not cells:  # a blank line
                begins = reader.line_num + 1
                continue
            where = f"row {number + 1:,} (line {begins:,})"
            if len(cells) != len(header):
                raise BadInput(
                    f"{where} has {len(cells)} cells, and the header {len(header)}:"
                    " quote cells that hold the delimiter, and leave none out"
                )
            number += 1
            yield Row(number, where, dict(zip(header, cells, strict=True)))
            begins = reader.line_num + 1
    except (csv.Error, _BadLine) as error:
        where = f"row {number + 1:,} (line {begins:,})" if begins > 1 else "the header"
        raise BadInput(f"{where}: {_mended(str(error))}") from None


class _BadLine(Exception):
    """What is wrong with a line of text."""


def _text_lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """The lines with their ends, which csv wants to see."""
    splitter, is_first = LineSplitter(), True
    for line in _lines(splitter, blocks):
        if is_first and (kind := binary_kind(line[:HEAD])) is not None:
            raise BadInput(f"is {kind}")
        # Spreadsheets begin a file with a mark.
        yield _text(line.removeprefix(BOM_UTF8) if is_first else line)
        is_first = False


def _text(line: bytes) -> str:
    if len(line) > LINE_BYTES:
        raise _BadLine(f"is longer than {LINE_BYTES:,} bytes")
    if b"\0" in line:
        raise _BadLine("holds a NUL character, which no text has in it; remove it")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise _BadLine(
            f"is not UTF-8 (byte {error.start + 1} of its line); save the file as UTF-8"
        ) from None


def _lines(splitter: LineSplitter, blocks: Iterable[bytes]) -> Iterator[bytes]:
    for block in blocks:
        for line in splitter.feed(block):
            yield line + b"\n"
    yield from splitter.end()


def _mended(error: str) -> str:
    """csv's words, with what to do about them."""
    if "field larger" in error or "unexpected end" in error:
        return f"{error}; is a closing quote missing?"
    if "expected after" in error:
        return f"{error}; write a quote within a quoted cell twice"
    if "new-line character" in error:
        return f"{error}; lines must end in LF or CR LF"
    return error


def _other_delimiter(header: Sequence[str], delimiter: str) -> str:
    """Return what to add if the header has one column that looks like several."""
    if len(header) != 1:
        return ""
    counts = {other: header[0].count(other) for other in DELIMITERS if other != delimiter}
    likely = max(counts, key=lambda other: counts[other])
    if not counts[likely]:
        return ""
    option = "\\t" if likely == "\t" else likely
    return f": this looks separated by {DELIMITERS[likely]}: --delimiter '{option}'"


def check_columns(names: Sequence[str], wanted: Sequence[str], *, hint: str = "") -> None:
    """Raise BadInput, with a hint, unless each column that is wanted is there, once."""
    for name in wanted:
        if name not in names:
            there = ", ".join(repr(other) for other in names[:20])
            braces = "" if set(name).isdisjoint("\"':{}") else "; write {{ for a brace itself"
            raise BadInput(f"has no column {name!r}; it has {there or 'none'}{hint}{braces}")
        if names.count(name) > 1:
            raise BadInput(f"has the column {name!r} more than once; rename one")
