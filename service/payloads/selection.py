"""Result lines of one outcome: only what succeeded, or only what failed, in input order.

Which requests failed is known from the database. No line is parsed: what is wanted is cut out by
the index that lies beside every blob of result lines.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from service.payloads.blobs import Blobs
from service.payloads.excerpts import excerpt
from service.payloads.results import clusters, merged, read_index
from service.rules.work import FinalLines, Segment

BLOCK = 1 << 18


class Only(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Selection:
    """Lines of one outcome. `failed` and `pending` are ordinals in their order.

    What is `pending` has no line, whatever was said of it before it was run again.
    """

    only: Only
    failed: "array[int]"
    pending: "array[int]"

    def ranges(self, ordinals: Sequence[int], lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
        """(offset, length) of the lines that are wanted, of some that stand together."""
        ends = array("Q", accumulate(lengths, initial=0))
        failed = _among(self.failed, ordinals[0], ordinals[-1])
        pending = _among(self.pending, ordinals[0], ordinals[-1])
        if self.only is Only.FAILED:
            for line in _lines_of(failed - pending, ordinals):
                yield ends[line], lengths[line]
            return
        at = 0  # the first line that is in no range yet
        for line in _lines_of(failed | pending, ordinals):
            if line > at:
                yield ends[at], ends[line] - ends[at]
            at = line + 1
        if at < len(lengths):
            yield ends[at], ends[-1] - ends[at]


def selected(blobs: Blobs, segments: Iterable[Segment], selection: Selection) -> Iterator[bytes]:
    """Of a job's results, in blocks."""
    return _in_blocks(_of_segments(blobs, segments, selection))


def selected_partial(
    blobs: Blobs, parts: Sequence[FinalLines], selection: Selection
) -> Iterator[bytes]:
    """Of what is final so far, in blocks."""
    return _in_blocks(_of_parts(blobs, parts, selection))


def ordinals_of(blobs: Blobs, manifests: Iterable[str]) -> "array[int]":
    """The requests that batches carry, in input order."""
    found = array("Q")
    for manifest in manifests:
        found.extend(entry.ordinal for entry in blobs.get_manifest(manifest))
    return array("Q", sorted(found))


def _of_segments(
    blobs: Blobs, segments: Iterable[Segment], selection: Selection
) -> Iterator[bytes]:
    for segment in segments:
        index = read_index(blobs, segment.index_blob)
        yield from excerpt(blobs, segment.blob, selection.ranges(index.ordinals, index.lengths))


def _of_parts(blobs: Blobs, parts: Sequence[FinalLines], selection: Selection) -> Iterator[bytes]:
    for group in clusters(parts):
        for run in merged(blobs, group):
            for offset, length in selection.ranges(run.ordinals, run.lengths):
                yield run.data[offset : offset + length]


def size_of(blobs: Blobs, segments: Iterable[Segment], selection: Selection) -> int:
    """Bytes of what is selected of a job's results."""
    size = 0
    for segment in segments:
        index = read_index(blobs, segment.index_blob)
        size += sum(length for _, length in selection.ranges(index.ordinals, index.lengths))
    return size


def _lines_of(chosen: Iterable[int], ordinals: Sequence[int]) -> Iterator[int]:
    """Where those of the requests that have a line among these have it, in order."""
    for ordinal in sorted(chosen):
        line = bisect_left(ordinals, ordinal)
        if line < len(ordinals) and ordinals[line] == ordinal:
            yield line


def _among(ordinals: "array[int]", first: int, last: int) -> frozenset[int]:
    """Those from `first` to `last`."""
    return frozenset(ordinals[bisect_left(ordinals, first) : bisect_right(ordinals, last)])


def _in_blocks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Many small pieces as a few large ones: each that is sent has its price."""
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
