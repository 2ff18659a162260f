"""What a job's metadata may be."""

from collections.abc import Iterator
from typing import Any

import msgspec

from service.rules.names import trouble_with

METADATA_BYTES = 16_384
METADATA_DEPTH = 100
"""Postgres could store deeper nesting, but the API could not show it."""


def metadata_problems(metadata: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with it."""
    if _deeper(metadata, METADATA_DEPTH):
        yield "`metadata` nests too deep"
    elif len(msgspec.json.encode(metadata)) > METADATA_BYTES:
        yield f"`metadata` may have {METADATA_BYTES:,} bytes as JSON"
    else:
        for key in _keys(metadata):
            if trouble := trouble_with(key):
                yield f"`metadata`: the key {key[:100]!r} {trouble}"


def _deeper(value: Any, most: int) -> bool:
    """Whether there are more levels of containers in it than that."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for outer in level
            for inner in (
                outer.values()
                if isinstance(outer, dict)
                else outer
                if isinstance(outer, list)
                else ()
            )
        ]
        if not level:
            return False
    return True


def _keys(value: Any) -> Iterator[str]:
    """Yield the keys of all objects in it."""
    if isinstance(value, dict):
        yield from value
    for inner in value.values() if isinstance(value, dict) else value:
        if isinstance(inner, dict | list):
            yield from _keys(inner)
