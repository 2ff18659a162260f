"""Selecting the result lines of succeeded or of failed requests, in input order.

The database knows which requests failed. No line is parsed: the index beside each blob of result
lines tells which bytes to cut out.
"""

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from service.payloads.blobs import Blobs
from service.payloads.excerpts import excerpt
from service.payloads.results import clusters, merged, read_index
from service.rules.work import FinalLines, Manifest, Segment

BLOCK = 1 << 18


class Only(StrEnum):
    """Which requests to select."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Selection:
    """Selects the lines of succeeded or of failed requests.

    `failed` and `pending` are sorted ordinals. A pending request is being retried, so a line that
    an earlier run left for it is never selected.
    """

    only: Only
    failed: "array[int]"
    pending: "array[int]"

    def ranges(self, ordinals: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield the (offset, length) of the selected ones among adjacent lines."""
        ends = array("Q", accumulate(lengths, initial=0))
        failed = _among(self.failed, ordinals[0], ordinals[-1])
        pending = _among(self.pending, ordinals[0], ordinals[-1])
        if self.only is Only.FAILED:
            for line in _lines_of(failed - pending, ordinals):
                yield ends[line], lengths[line]
            return
        at = 0  # the first line that no range covers yet
        for line in _lines_of(failed | pending, ordinals):
            if line > at:
                yield ends[at], ends[line] - ends[at]
            at = line + 1
        if at < len(lengths):
            yield ends[at], ends[-1] - ends[at]


def selected(
    blobs: Blobs,
    segments: Iterable[Segment],
    selection: Selection,
    *,
    start: int = 0,
    stop: int | None = None,
) -> Iterator[bytes]:
    """Yield the selected lines of a job's results, in blocks.

    `start` and `stop` are a range of the bytes that these lines have together.
    """
    end = sys.maxsize if stop is None else stop
    return _in_blocks(_of_segments(blobs, segments, selection, start, end))


def selected_partial(
    blobs: Blobs, final_lines: Sequence[FinalLines], selection: Selection
) -> Iterator[bytes]:
    """Yield the selected lines that are final so far, in blocks."""
    return _in_blocks(_of_final_lines(blobs, final_lines, selection))


def ordinals_of(blobs: Blobs, manifests: Iterable[Manifest]) -> "array[int]":
    """Return the ordinals of the requests in some manifests, sorted."""
    found = array("Q")
    for manifest in manifests:
        found.extend(entry.ordinal for entry in blobs.get_manifest(manifest))
    return array("Q", sorted(found))


def _of_segments(
    blobs: Blobs, segments: Iterable[Segment], selection: Selection, start: int, stop: int
) -> Iterator[bytes]:
    at = 0  # the bytes of the selected lines before this segment
    for segment in segments:
        if at >= stop:
            return
        index = read_index(blobs, segment.index_blob)
        lines = list(selection.ranges(index.ordinals, index.lengths))
        yield from excerpt(blobs, segment.blob, _within(lines, start - at, stop - at))
        at += sum(length for _, length in lines)


def _within(ranges: Iterable[tuple[int, int]], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield what of some ranges lies between two places in their bytes, put together."""
    at = 0
    for offset, length in ranges:
        first, last = max(start - at, 0), min(stop - at, length)
        if first < last:
            yield offset + first, last - first
        at += length


def _of_final_lines(
    blobs: Blobs, final_lines: Sequence[FinalLines], selection: Selection
) -> Iterator[bytes]:
    for group in clusters(final_lines):
        for run in merged(blobs, group):
            for offset, length in selection.ranges(run.ordinals, run.lengths):
                yield run.data[offset : offset + length]


def size_of(blobs: Blobs, segments: Iterable[Segment], selection: Selection) -> int:
    """Return the size in bytes of the selected lines of a job's results."""
    size = 0
    for segment in segments:
        index = read_index(blobs, segment.index_blob)
        size += sum(length for _, length in selection.ranges(index.ordinals, index.lengths))
    return size


def _lines_of(chosen: Iterable[int], ordinals: Sequence[int]) -> Iterator[int]:
    """Yield the indices, in order, at which the chosen requests have a line."""
    for ordinal in sorted(chosen):
        line = bisect_left(ordinals, ordinal)
        if line < len(ordinals) and ordinals[line] == ordinal:
            yield line


def _among(ordinals: "array[int]", first: int, last: int) -> frozenset[int]:
    """Return the ordinals from `first` to `last`, both included."""
    return frozenset(ordinals[bisect_left(ordinals, first) : bisect_right(ordinals, last)])


def _in_blocks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join many small pieces into a few large ones, since sending each one costs time."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= BLOCK:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
