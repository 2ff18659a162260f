"""Unpacking gzip piece by piece: a few bytes that become very many stay within bounds."""

import zlib
from collections.abc import Iterable, Iterator

from service.rules.errors import BadInput, Problem

GZIP = b"\x1f\x8b"
PIECE = 1 << 18
"""The most bytes that are unpacked at a time."""


class Unpacker:
    """Unpacks gzip data, of any number of members. `feed` every block, then `end`.

    Both raise BadInput: if the data is damaged or cut off, or unpacks to more than `most` bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._member = _member()
        self._begun = False
        """Whether the present member has bytes."""
        self._ended = False
        """Whether a member was read to its end."""

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield the unpacked bytes, in pieces of at most `PIECE`."""
        while block:
            if self._ended and not self._begun:
                block = block.lstrip(b"\0")  # some programs fill up the last page
                if not block:
                    return
            self._begun = True
            try:
                piece = self._member.decompress(block, PIECE)
            except zlib.error as error:
                raise _bad(f"the gzip data is damaged ({error}): pack and send it again") from None
            self._size += len(piece)
            if self._size > self._most:
                words = f"the gzip data unpacks to more than {self._most:,} bytes"
                raise BadInput([Problem(f"{words}; send it in several jobs")], too_large=True)
            if piece:
                yield piece
            block = self._member.unconsumed_tail
            if self._member.eof:
                block = self._member.unused_data
                self._member, self._begun, self._ended = _member(), False, True

    def end(self) -> None:
        """The data is whole."""
        if self._begun or not self._ended:
            raise _bad("the gzip data is cut off: its end is missing; send it again")


def _member() -> "zlib._Decompress":
    return zlib.decompressobj(wbits=31)


def _bad(words: str) -> BadInput:
    return BadInput([Problem(words)])


def unpacked(blocks: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Yield the bytes of a file, unpacked if it is gzip. Raises BadInput as `Unpacker` does."""
    left, head = iter(blocks), b""
    for block in left:
        head += block
        if len(head) >= len(GZIP):
            break
    if not head.startswith(GZIP):
        if head:
            yield head
        yield from left
        return
    unpacker = Unpacker(most)
    yield from unpacker.feed(head)
    for block in left:
        yield from unpacker.feed(block)
    unpacker.end()
