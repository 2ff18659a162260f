"""Conditional and range requests (RFC 9110, sections 13 and 14). Pure."""

import re
from dataclasses import dataclass

_SINGLE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Unsatisfiable(Exception):
    """The range lies outside."""


@dataclass(frozen=True)
class Span:
    """Bytes `start` up to but without `stop`."""

    start: int
    stop: int


def requested(header: str | None, total: int) -> Span | None:
    """The span that a Range header asks for; None where the whole is to be sent.

    Several ranges, or what is no range, mean the whole. Raises Unsatisfiable.
    """
    found = _SINGLE.fullmatch(header.replace(" ", "")) if header else None
    if found is None or found[1] == found[2] == "":
        return None
    if not found[1]:
        span = Span(max(total - int(found[2]), 0), total)
    else:
        span = Span(int(found[1]), min(int(found[2]) + 1, total) if found[2] else total)
        if found[2] and int(found[2]) < int(found[1]):
            return None
    if span.start >= span.stop:
        raise Unsatisfiable
    return span


def names(header: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names the ETag."""
    if header is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return etag in tags or "*" in tags
