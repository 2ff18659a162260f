"""Result lines in input order: how the final lines of batches become the results of a job.

Beside each blob of result lines lies its index: the ordinals of the lines (64 bit each), then
their lengths with the line feed (32 bit each), both little-endian.
"""

import heapq
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from service.blobs import BLOCK, Blobs
from service.work import FinalLines, Segment


class LinesWriter:
    """Writes result lines in input order, and their index."""

    def __init__(self, blobs: Blobs, name: str) -> None:
        self._blobs = blobs
        self.blob = f"{name}.jsonl"
        self.index_blob = f"{name}.index"
        self._ordinals = array("Q")
        self._lengths = array("I")
        self._bytes = 0
        self._pending: list[bytes] = []
        self._held = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """The blobs are durable when the block is left."""
        with self._blobs.writer(self.blob) as self._writer:
            yield
            self._flush()
        self._blobs.put(self.index_blob, _packed(self._ordinals) + _packed(self._lengths))

    def write(self, ordinal: int, line: bytes) -> None:
        """Take a line with or without its line feed."""
        if line[-1:] != b"\n":
            line += b"\n"
        self._pending.append(line)
        self._held += len(line)
        self._ordinals.append(ordinal)
        self._lengths.append(len(line))
        if self._held >= BLOCK:
            self._flush()

    def _flush(self) -> None:
        self._writer.write(b"".join(self._pending))
        self._bytes += self._held
        self._pending.clear()
        self._held = 0

    @property
    def final_lines(self) -> FinalLines | None:
        if not self._ordinals:
            return None
        return FinalLines(
            blob=self.blob,
            index_blob=self.index_blob,
            first_ordinal=self._ordinals[0],
            last_ordinal=self._ordinals[-1],
            bytes=self._bytes,
            requests=len(self._ordinals),
        )


def _packed(numbers: "array[int]") -> bytes:
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers.tobytes()


@dataclass(frozen=True)
class Index:
    ordinals: "array[int]"
    lengths: "array[int]"


def read_index(blobs: Blobs, name: str) -> Index:
    data = blobs.get(name)
    count = len(data) // 12
    ordinals, lengths = array("Q"), array("I")
    ordinals.frombytes(data[: count * 8])
    lengths.frombytes(data[count * 8 :])
    if sys.byteorder == "big":
        ordinals.byteswap()
        lengths.byteswap()
    return Index(ordinals, lengths)


def _lines(blobs: Blobs, lines: FinalLines) -> Iterator[tuple[int, bytes]]:
    """(ordinal, line with its line feed) of one batch."""
    index = read_index(blobs, lines.index_blob)
    blocks = blobs.stream(lines.blob)
    held, at = b"", 0
    for ordinal, length in zip(index.ordinals, index.lengths, strict=True):
        while len(held) - at < length:
            held, at = held[at:] + next(blocks), 0
        yield ordinal, held[at : at + length]
        at += length


def merged(blobs: Blobs, parts: Sequence[FinalLines]) -> Iterator[tuple[int, bytes]]:
    """(ordinal, line) in input order; where two batches speak of a request, the later is right.

    `parts` are in the order in which the batches settled.
    """
    # (ordinal, -rank, the lines from there on): of one ordinal the latest comes first. A part is
    # opened only when its turn has come.
    heap: list[tuple[int, int, Iterator[tuple[int, bytes]] | None, bytes]] = [
        (part.first_ordinal, -rank, None, b"") for rank, part in enumerate(parts)
    ]
    heapq.heapify(heap)
    last = None
    while heap:
        ordinal, rank, lines, line = heapq.heappop(heap)
        if lines is None:
            lines = _lines(blobs, parts[-rank])
        elif ordinal != last:
            yield ordinal, line
            last = ordinal
        for following in lines:
            heapq.heappush(heap, (following[0], rank, lines, following[1]))
            break


def clusters(parts: Iterable[FinalLines]) -> Iterator[list[FinalLines]]:
    """The parts in groups that do not overlap, in input order.

    Within a group the order in which they settled is kept.
    """
    parts = list(parts)
    order = {id(part): rank for rank, part in enumerate(parts)}
    group: list[FinalLines] = []
    end = -1
    for part in sorted(parts, key=lambda part: part.first_ordinal):
        if group and part.first_ordinal > end:
            yield sorted(group, key=lambda part: order[id(part)])
            group = []
        group.append(part)
        end = max(end, part.last_ordinal)
    if group:
        yield sorted(group, key=lambda part: order[id(part)])


def assembled(blobs: Blobs, prefix: str, parts: Sequence[FinalLines]) -> tuple[Segment, ...]:
    """The segments of a job's results. What is in order already is not copied."""
    segments = []
    for number, group in enumerate(clusters(parts)):
        lines: FinalLines | None = group[0]
        if len(group) > 1:
            writer = LinesWriter(blobs, f"{prefix}/results-{number}")
            with writer.open():
                for ordinal, line in merged(blobs, group):
                    writer.write(ordinal, line)
            lines = writer.final_lines
        if lines is not None:
            segments.append(
                Segment(
                    blob=lines.blob,
                    index_blob=lines.index_blob,
                    bytes=lines.bytes,
                    requests=lines.requests,
                )
            )
    return tuple(segments)


def stream(
    blobs: Blobs, segments: Iterable[Segment], *, start: int = 0, stop: int | None = None
) -> Iterator[bytes]:
    """The results as JSONL, or their bytes from `start` up to `stop`, in blocks."""
    at = 0
    for segment in segments:
        first = max(start - at, 0)
        last = segment.bytes if stop is None else min(stop - at, segment.bytes)
        if first < last:
            yield from blobs.stream(segment.blob, first, last - first)
        at += segment.bytes


def stream_partial(blobs: Blobs, parts: Sequence[FinalLines]) -> Iterator[bytes]:
    """What is final so far, in input order, in blocks."""
    held = bytearray()
    for group in clusters(parts):
        for _, line in merged(blobs, group):
            held += line
            if len(held) >= 1 << 18:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)
