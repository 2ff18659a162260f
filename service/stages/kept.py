"""Answers that failed the check of their job: kept, since they were paid for, and read again."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from service.payloads.blobs import Blobs, place_of, range_of
from service.payloads.excerpts import excerpt

T = TypeVar("T")
P = TypeVar("P")

MOST_AT_ONCE = 256
MOST_BYTES = 8_000_000
"""So many answers, and bytes of them, are held at once."""


def keep_answers(
    blobs: Blobs, name: str, bodies: Iterable[tuple[P, bytes]], keep: Callable[[], None]
) -> dict[P, str]:
    """Keep answers in a blob of this name. Returns the range of each. `keep` is called for each."""
    kept: dict[P, str] = {}
    with blobs.writer(name) as writer:
        for place, body in bodies:
            kept[place] = range_of(name, writer.size, len(body))
            writer.write(body)
            keep()
    return kept


def kept_answers(blobs: Blobs, names: Iterable[str | None]) -> Mapping[str, bytes]:
    """Return answers by their ranges. A lost one is not in it: it stops nothing."""
    ranges: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
    for name in names:
        if name is not None:
            blob, offset, length = place_of(name)
            ranges[blob].add((offset, length or 0))
    return {
        range_of(blob, *place): answer
        for blob, places in ranges.items()
        for place, answer in _read(blobs, blob, sorted(places))
    }


def _read(
    blobs: Blobs, blob: str, places: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], bytes]]:
    pieces = excerpt(blobs, blob, places)
    try:
        for place in places:
            answer = bytearray()
            while len(answer) < place[1]:
                answer += next(pieces)
            yield place, bytes(answer)
    except FileNotFoundError:
        return


def by_answers(items: Iterable[T], name_of: Callable[[T], str | None]) -> Iterator[list[T]]:
    """Cut into pages whose kept answers may be held at once."""
    page: list[T] = []
    held = 0
    for item in items:
        name = name_of(item)
        size = 0 if name is None else place_of(name)[2] or 0
        if page and (len(page) >= MOST_AT_ONCE or held + size > MOST_BYTES):
            yield page
            page, held = [], 0
        page.append(item)
        held += size
    if page:
        yield page
