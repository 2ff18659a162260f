"""The `check` of a spec, as it is given on the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import typer


def check_of(asked: Sequence[str]) -> str | None:
    """Return the check that several options make together, as JSON. Raises BadParameter."""
    checks = [_read(text) for text in asked]
    if not checks:
        return None
    return msgspec.json.encode(checks[0] if len(checks) == 1 else checks).decode()


def _read(text: str) -> Any:
    if text.startswith("@"):
        return {"json_schema": _schema(Path(text[1:]))}
    if not text.startswith(("{", "[", '"')):
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise typer.BadParameter(f"--check: {error}") from None


def _schema(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise typer.BadParameter(f"--check: {path} is not a JSON Schema: {error}") from None
