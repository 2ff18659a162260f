"""What requests come in and results go out in."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path


class Format(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


def format_of(path: Path, given: Format | None, *, otherwise: Format = Format.JSONL) -> Format:
    """As the file's name says (`.csv.gz` is CSV), unless told otherwise.

    A name that says nothing has the format `otherwise`.
    """
    name = Path(path.name.lower().removesuffix(".gz"))
    suffix = name.suffix.removeprefix(".")
    if suffix == "ndjson":
        suffix = Format.JSONL
    return given or (Format(suffix) if suffix in set(Format) else otherwise)


def parquet_is_there() -> bool:
    """Whether the extra that reads and writes Parquet is installed."""
    return find_spec("pyarrow") is not None


NO_PARQUET = "Parquet needs pyarrow, which is not installed: pip install 'haulier[parquet]'"
