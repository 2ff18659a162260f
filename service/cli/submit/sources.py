"""What `haulier submit` reads, in any of its formats, and the request lines in it."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

import typer

from service.cli.submit.filling import filled
from service.cli.submit.rows import Recipe, lines_of
from service.cli.submit.tables import BadInput, Row, csv_rows
from service.payloads.unpacking import unpacked
from service.rules import errors

BLOCK = 1 << 18
STANDARD_INPUT = Path("-")


@dataclass
class Bar:
    """How far reading is: `total` of its unit (bytes, or rows of Parquet), None if unknown."""

    opened: Callable[[int | None], None]
    advanced: Callable[[int], None]


@contextmanager
def opened(source: Path) -> Iterator[BinaryIO]:
    """The file, or standard input."""
    if source == STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    try:
        file = source.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {source}: {error.strerror}") from None
    with file:
        yield file


def length_of(file: BinaryIO) -> int | None:
    """Bytes from here to the end of a file; None for a pipe."""
    status = os.fstat(file.fileno())
    return status.st_size - file.tell() if S_ISREG(status.st_mode) else None


def plain_lines(file: BinaryIO, length: int | None, bar: Bar) -> Iterator[bytes]:
    """The file as it is, in blocks; of a file no more than the `length` that it had."""
    bar.opened(length)
    left = length
    # What is appended while we read is left out: a longer body than announced is no body.
    while block := file.read(BLOCK if left is None else min(BLOCK, left)):
        left = None if left is None else left - len(block)
        yield block
        bar.advanced(len(block))


def filled_lines(file: BinaryIO, model: str, bar: Bar) -> Iterator[bytes]:
    """JSONL in blocks, with the model named wherever it is not. Raises BadInput."""
    return filled(_unpacked_lines(file, bar), model)


def csv_lines(file: BinaryIO, delimiter: str, recipe: Recipe, bar: Bar) -> Iterator[bytes]:
    """Request lines made of CSV, in blocks. Raises BadInput, for the first of them at once."""
    rows = csv_rows(_unpacked_lines(file, bar), recipe.columns, delimiter=delimiter)
    return _made_of(rows, recipe)


def parquet_lines(source: Path, recipe: Recipe, bar: Bar) -> Iterator[bytes]:
    """Request lines made of Parquet, as `csv_lines` makes them."""
    if source == STANDARD_INPUT:
        raise BadInput("Parquet is read from its end: give it as a file, not through a pipe")
    from service.cli.submit.parquet import parquet_rows

    return _made_of(parquet_rows(source, recipe.columns, bar.opened, bar.advanced), recipe)


def _unpacked_lines(file: BinaryIO, bar: Bar) -> Iterator[bytes]:
    """The file, unpacked if it is gzipped. Raises BadInput."""
    try:
        yield from unpacked(plain_lines(file, length_of(file), bar), sys.maxsize)
    except errors.BadInput as error:
        raise BadInput(str(error)) from None


def _made_of(rows: Iterable[Row], recipe: Recipe) -> Iterator[bytes]:
    packed = _packed(lines_of(rows, recipe))
    # Short tables are checked whole before anything is sent, and any table's header is.
    return chain([next(packed)], packed)


def _packed(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines, many to a block."""
    block = bytearray()
    for line in lines:
        block += line
        if len(block) >= BLOCK:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)
