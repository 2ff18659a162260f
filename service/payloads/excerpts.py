"""Pieces of a blob, without the rest."""

from collections.abc import Iterable, Iterator

from service.payloads.blobs import Blobs

GAP = 1 << 20
"""Bytes between two ranges that are rather read than asked around."""


def excerpt(blobs: Blobs, name: str, ranges: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """The bytes of a blob's ranges, each an (offset, length), in order, in blocks."""
    for near in neighbours(ranges):
        start, end = near[0][0], sum(near[-1])
        yield from cut(blobs.stream(name, start, end - start), near)


def neighbours(ranges: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """The ranges in groups that are read as one: a request to S3 costs more than a gap."""
    near: list[tuple[int, int]] = []
    for offset, length in ranges:
        if near and offset - sum(near[-1]) > GAP:
            yield near
            near = []
        near.append((offset, length))
    if near:
        yield near


def cut(blocks: Iterator[bytes], ranges: list[tuple[int, int]]) -> Iterator[bytes]:
    """The ranges' bytes, out of blocks that begin where the first range does."""
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
