"""Merging the final lines of batches into the results of a job, in input order.

Each blob of result lines has an index beside it: the ordinals of the lines (64 bits each), then
their lengths with the line feed (32 bits each), both little-endian.
"""

import heapq
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

from service.payloads.blobs import BLOCK, Blobs, range_of
from service.rules.work import FinalLines, Segment

RUN_LINES = 1024
RUN_BYTES = 1 << 18
"""The most bytes to read of a batch at once. A merge of 64 models has 64 batches open."""
SEGMENT_LINES = 50_000
ANSWER_BLOCK = 1 << 18
"""Bytes of a block that is sent to a client, which holds a few of them, however slow it is."""


class LinesWriter:
    """Writes result lines in input order, and their index.

    If `shared`, the lines of one part after another go into one blob, and their indexes into
    another; `end_part` returns the place of what was written since it was last called.
    """

    def __init__(self, blobs: Blobs, name: str, *, shared: bool = False) -> None:
        self._blobs = blobs
        self.blob = f"{name}.jsonl"
        self.index_blob = f"{name}.index"
        self._shared = shared
        self._indexes: list[bytes] = []
        self._ordinals = array("Q")
        self._lengths = array("I")
        self._start = self._end = 0
        self._pending: list[bytes] = []
        self._held = 0

    @contextmanager
    def open(self) -> Iterator[None]:
        """Open the blobs. They are durable when the `with` block ends."""
        with self._blobs.writer(self.blob) as self._writer:
            yield
            self._flush()
        self._blobs.put(self.index_blob, b"".join(self._indexes) if self._shared else self._index())

    def _index(self) -> bytes:
        return _packed(self._ordinals) + _packed(self._lengths)

    def write(self, ordinal: int, line: bytes) -> None:
        """Write one line, with or without its line feed."""
        self.write_all([ordinal], [line])

    def write_all(self, ordinals: Sequence[int], lines: Sequence[bytes]) -> None:
        """Write lines, with or without their line feeds."""
        if not all([line[-1:] == b"\n" for line in lines]):  # noqa: C419  much faster as a list
            lines = [line if line[-1:] == b"\n" else line + b"\n" for line in lines]
        self._add(array("Q", ordinals), array("I", map(len, lines)), lines)

    def write_run(self, run: "Run") -> None:
        self._add(run.ordinals, run.lengths, [run.data])

    def _add(self, ordinals: "array[int]", lengths: "array[int]", pieces: Sequence[bytes]) -> None:
        size = sum(lengths)
        self._pending += pieces
        self._held += size
        self._ordinals += ordinals
        self._lengths += lengths
        self._end += size
        if self._held >= BLOCK // 2:  # a large run is passed on without a copy
            self._flush()

    def _flush(self) -> None:
        self._writer.write(b"".join(self._pending))
        self._pending.clear()
        self._held = 0

    @property
    def requests(self) -> int:
        return len(self._ordinals)

    @property
    def final_lines(self) -> FinalLines | None:
        """The place of all lines; None if there are none."""
        return self._place(self.blob, self.index_blob)

    def end_part(self) -> FinalLines | None:
        """Return the place of a part's lines, of which none may follow; None if there are none."""
        if not self._shared:
            return self.final_lines
        index, at = self._index(), sum(map(len, self._indexes))
        place = self._place(
            range_of(self.blob, self._start, self._end - self._start),
            range_of(self.index_blob, at, len(index)),
        )
        self._indexes.append(index)
        self._start = self._end
        self._ordinals, self._lengths = array("Q"), array("I")
        return place

    def _place(self, blob: str, index_blob: str) -> FinalLines | None:
        if not self._ordinals:
            return None
        return FinalLines(
            blob=blob,
            index_blob=index_blob,
            first_ordinal=self._ordinals[0],
            last_ordinal=self._ordinals[-1],
            bytes=self._end - self._start,
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


def line_of(blobs: Blobs, lines: FinalLines, ordinal: int) -> bytes | None:
    """Return the result line of one request, without its line feed. Returns None if it has none."""
    if not lines.first_ordinal <= ordinal <= lines.last_ordinal:
        return None
    index = read_index(blobs, lines.index_blob)
    at = bisect_left(index.ordinals, ordinal)
    if index.ordinals[at] != ordinal:
        return None
    offset, length = sum(index.lengths[:at]), index.lengths[at]
    return b"".join(blobs.stream(lines.blob, offset, length)).removesuffix(b"\n")


@dataclass(frozen=True)
class Run:
    """Adjacent lines: their ordinals, their lengths, and their bytes."""

    ordinals: "array[int]"
    lengths: "array[int]"
    data: bytes


class _Cursor:
    """Reads the final lines of one batch from the first to the last."""

    def __init__(self, blobs: Blobs, lines: FinalLines) -> None:
        self._index = read_index(blobs, lines.index_blob)
        self._at = 0
        self._blocks = blobs.stream(lines.blob, block=RUN_BYTES)
        self._held = b""
        self._used = 0

    @property
    def ordinal(self) -> int | None:
        """The ordinal of the next line, or None at the end."""
        ordinals = self._index.ordinals
        return ordinals[self._at] if self._at < len(ordinals) else None

    def take(self, before: int) -> Run:
        """Read the next line and those after it below the ordinal `before`, at most a run."""
        ordinals, lengths = self._index.ordinals, self._index.lengths
        furthest = min(self._at + RUN_LINES, len(ordinals))
        stop = bisect_left(ordinals, before, self._at + 1, furthest)
        lengths = lengths[self._at : stop]
        size = sum(lengths)
        while size > RUN_BYTES and len(lengths) > 1:
            lengths = lengths[: len(lengths) // 2]
            size = sum(lengths)
        stop = self._at + len(lengths)
        run = Run(ordinals[self._at : stop], lengths, self._read(size))
        self._at = stop
        return run

    def _read(self, size: int) -> bytes:
        if len(self._held) - self._used < size:
            pieces = [self._held[self._used :]]
            missing = size - len(pieces[0])
            while missing > 0:
                pieces.append(next(self._blocks))
                missing -= len(pieces[-1])
            self._held, self._used = b"".join(pieces), 0
        self._used += size
        return self._held[self._used - size : self._used]


def merged(blobs: Blobs, final_lines: Sequence[FinalLines]) -> Iterator[Run]:
    """Yield the lines in input order. If two batches have a line for a request, the later one wins.

    `final_lines` are in the order in which the batches settled.
    """
    # (ordinal, -rank, cursor): for one ordinal, the latest batch comes first. A batch has no cursor
    # until its first line is due, so that few are open at once.
    heap: list[tuple[int, int, _Cursor | None]] = [
        (lines.first_ordinal, -rank, None) for rank, lines in enumerate(final_lines)
    ]
    heapq.heapify(heap)
    last = -1
    while heap:
        ordinal, rank, cursor = heapq.heappop(heap)
        cursor = cursor or _Cursor(blobs, final_lines[-rank])
        following = heap[0][0] if heap else sys.maxsize
        if ordinal == last:
            cursor.take(before=ordinal + 1)  # an earlier line for a request that has its line
        else:
            run = cursor.take(before=max(following, ordinal + 1))
            last = run.ordinals[-1]
            yield run
        if cursor.ordinal is not None:
            heapq.heappush(heap, (cursor.ordinal, rank, cursor))


def clusters(final_lines: Iterable[FinalLines]) -> Iterator[list[FinalLines]]:
    """Yield groups of final lines that do not overlap with each other, in input order.

    A group keeps the order in which its batches settled.
    """
    final_lines = list(final_lines)
    order = {id(lines): rank for rank, lines in enumerate(final_lines)}
    group: list[FinalLines] = []
    end = -1
    for lines in sorted(final_lines, key=lambda lines: lines.first_ordinal):
        if group and lines.first_ordinal > end:
            yield sorted(group, key=lambda lines: order[id(lines)])
            group = []
        group.append(lines)
        end = max(end, lines.last_ordinal)
    if group:
        yield sorted(group, key=lambda lines: order[id(lines)])


def assembled(
    blobs: Blobs,
    prefix: str,
    final_lines: Sequence[FinalLines],
    keep: Callable[[], None] = lambda: None,
) -> tuple[Segment, ...]:
    """Return the segments of a job's results. Does not copy lines that are already in order.

    `keep` extends the lease and is called after each run.
    """
    segments: list[Segment] = []
    for number, group in enumerate(clusters(final_lines)):
        if len(group) == 1:
            segments.append(_segment(group[0]))
        else:
            segments.extend(_written(blobs, f"{prefix}/results-{number}", group, keep))
    return tuple(segments)


def in_order(final_lines: Sequence[FinalLines]) -> tuple[Segment, ...] | None:
    """Return the segments of results that need no merging; None if some lines overlap."""
    groups = list(clusters(final_lines))
    if any(len(group) > 1 for group in groups):
        return None
    return tuple(_segment(lines) for (lines,) in groups)


def _written(
    blobs: Blobs, prefix: str, group: Sequence[FinalLines], keep: Callable[[], None]
) -> Iterator[Segment]:
    """Merge a group into segments of about SEGMENT_LINES lines, which keeps each index small."""
    runs = merged(blobs, group)
    for number, first in enumerate(runs):
        writer = LinesWriter(blobs, f"{prefix}-{number}")
        with writer.open():
            for run in chain([first], runs):
                writer.write_run(run)
                keep()
                if writer.requests >= SEGMENT_LINES:
                    break
        if writer.final_lines is not None:
            yield _segment(writer.final_lines)


def _segment(lines: FinalLines) -> Segment:
    return Segment(
        blob=lines.blob,
        index_blob=lines.index_blob,
        bytes=lines.bytes,
        requests=lines.requests,
    )


def stream(
    blobs: Blobs, segments: Iterable[Segment], *, start: int = 0, stop: int | None = None
) -> Iterator[bytes]:
    """Yield the results as JSONL in blocks, or their bytes from `start` up to `stop`."""
    at = 0
    for segment in segments:
        first = max(start - at, 0)
        last = segment.bytes if stop is None else min(stop - at, segment.bytes)
        if first < last:
            yield from blobs.stream(segment.blob, first, last - first, block=ANSWER_BLOCK)
        at += segment.bytes


def stream_partial(blobs: Blobs, final_lines: Sequence[FinalLines]) -> Iterator[bytes]:
    """Yield the lines that are final so far, in input order, in blocks."""
    for group in clusters(final_lines):
        for run in merged(blobs, group):
            yield run.data
