"""Reading several ranges of a blob without the rest of it."""

from collections.abc import Iterable, Iterator

from service.payloads.blobs import Blobs

GAP = 1 << 20
"""The most bytes between two ranges that are read in one request and thrown away."""


def excerpt(blobs: Blobs, name: str, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the bytes of ranges of a blob, in blocks. The ranges are (offset, length), in order."""
    for near in neighbours(ranges):
        start, end = near[0][0], sum(near[-1])
        yield from cut(blobs.stream(name, start, end - start), near)


def neighbours(ranges: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Group ranges that are read in one request: a request to S3 costs more than reading a gap."""
    near: list[tuple[int, int]] = []
    for offset, length in ranges:
        if near and offset - sum(near[-1]) > GAP:
            yield near
            near = []
        near.append((offset, length))
    if near:
        yield near


def cut(blocks: Iterator[bytes], ranges: list[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the bytes of the ranges, out of blocks that begin at the first range."""
    position, block = ranges[0][0], b""
    for offset, length in ranges:
        at, end = offset, offset + length
        while at < end:
            while position + len(block) <= at:
                position += len(block)
                block = next(blocks)
            piece = block[at - position : end - position]
            yield piece
            at += len(piece)
