"""Parquet, read and written. It needs pyarrow, an extra, and so is imported late."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import parquet

from service.cli.show.answers import COLUMNS, Answer
from service.cli.submit.tables import BadInput, Row, check_columns

PAGE = 1_000
"""Rows that are read or written at a time."""


def parquet_rows(
    path: Path, wanted: Sequence[str], opened: Callable[[int], None], read: Callable[[int], None]
) -> Iterator[Row]:
    """The rows of a Parquet file: `opened` is told how many, `read` of those that were read.

    Raises BadInput.
    """
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            check_columns(file.schema_arrow.names, wanted)
            opened(file.metadata.num_rows)
            columns = list(dict.fromkeys(wanted))
            for batch in file.iter_batches(batch_size=PAGE, columns=columns):
                for cells in batch.to_pylist():
                    number += 1
                    where = f"row {number:,}"
                    yield Row(number, where, {n: _cell(v, n, where) for n, v in cells.items()})
                read(batch.num_rows)
    except UnicodeDecodeError:
        raise BadInput(f"a row after row {number:,} is not UTF-8") from None
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"cannot be read as Parquet: {error}") from None


def _cell(value: Any, column: str, where: str) -> str:
    """A value as text; nothing for a null."""
    if value is None:
        return ""
    if isinstance(value, bytes | list | dict):
        raise BadInput(f"{where}: column {column!r} is no text but {type(value).__name__}")
    text = str(value)
    if "\0" in text:
        raise BadInput(f"{where}: column {column!r} holds a NUL character; remove it")
    return text


def write_parquet(found: Iterable[Answer], file: BinaryIO) -> int:
    """One answer a row; gives their number. Needs pa."""
    number = {"prompt_tokens", "completion_tokens", "attempts"}
    schema = pa.schema([(name, pa.int64() if name in number else pa.string()) for name in COLUMNS])
    count, left = 0, iter(found)
    with parquet.ParquetWriter(file, schema) as writer:
        while page := list(islice(left, PAGE)):
            columns = zip(*map(astuple, page), strict=True)
            writer.write_table(pa.table(dict(zip(COLUMNS, columns, strict=True)), schema=schema))
            count += len(page)
    return count
