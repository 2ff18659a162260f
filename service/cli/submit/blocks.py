"""The request lines of what was asked for, whatever the file is."""

from collections.abc import Iterator
from typing import BinaryIO

from service.cli.submit.asked import Asked
from service.cli.submit.formats import Format
from service.cli.submit.rows import Recipe
from service.cli.submit.sources import (
    Bar,
    csv_lines,
    filled_lines,
    length_of,
    parquet_lines,
    plain_lines,
)


def request_blocks(
    asked: Asked, file: BinaryIO, recipe: Recipe | None, bar: Bar
) -> tuple[Iterator[bytes], int | None]:
    """The request lines, and how many bytes they are where that is known beforehand."""
    if recipe is not None:
        if asked.kind is Format.PARQUET:
            return parquet_lines(asked.source(), recipe, bar), None
        return csv_lines(file, asked.delimiter, recipe, bar), None
    if asked.model is not None:
        return filled_lines(file, asked.model, bar), None
    length = length_of(file)
    return plain_lines(file, length, bar), length
