"""Lenient reading of JSON and of its values: what decides nothing must not stop anything."""

import json
import math
from typing import Any

import msgspec

from service.rules.errors import error_text

BOM = b"\xef\xbb\xbf"
LONGEST_ID = 200
"""The most characters of an id. Together's have about 40; an index takes at most 2,704 bytes."""


def read_json(data: bytes) -> Any:
    """Parse JSON, and also what is almost JSON. Raises ValueError if it is neither.

    Almost JSON has a byte order mark, NaN or Infinity, half of a surrogate pair (a model's text
    may be cut in the middle of an emoji), or a number of any length.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(data.removeprefix(BOM).decode(), parse_int=_int)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _int(digits: str) -> int | float:
    """Read an integer. Python refuses those of over 4,300 digits, which no one can need."""
    return int(digits) if len(digits) < 40 else float(digits)


def number(value: object) -> float | None:
    """Return a number, also from its text. Returns None if it is none, or infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def count(value: object, most: int) -> int:
    """Return a whole number from 0 to `most`. What is no number counts as 0."""
    if type(value) is int and 0 <= value <= most:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return max(0, min(value, most))
    found = number(value)
    return 0 if found is None else int(max(0.0, min(found, float(most))))


def identifier(value: object) -> str | None:
    """Return an id that a row and a URL can take, or None if there is none."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID or not value.isprintable():
        return None
    return value


def storable(words: object, most: int) -> str:
    """Return Together's words as a text column takes them, cut to `most` characters."""
    return error_text(words if isinstance(words, str) else str(words))[:most]
