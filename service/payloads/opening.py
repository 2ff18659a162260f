"""Opening an input as it is: gzip is unpacked, and what is no JSONL is named at once."""

from collections.abc import Iterator

from service.payloads.unpacking import GZIP, Unpacker
from service.rules.errors import BadInput, Problem
from service.rules.kinds import HEAD, kind_of


class Opening:
    """Turns the blocks of an input into blocks of JSONL. `feed` every block, then `end`.

    Both raise BadInput: if the input is no JSONL, or gzip data that cannot be unpacked or has more
    than `most` bytes then.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._packed = b""
        """What has arrived, as long as it is too short to say whether it is packed."""
        self._is_known = False
        self._unpacker: Unpacker | None = None
        self._head: bytearray | None = bytearray()
        """The beginning of the text; None when it has been looked at."""

    def feed(self, block: bytes) -> Iterator[bytes]:
        if not self._is_known:
            block = self._packed + block
            if len(block) < len(GZIP):
                self._packed = block
                return
            self._know(block)
        if self._unpacker is None:
            yield from self._looked_at(block)
            return
        for piece in self._unpacker.feed(block):
            yield from self._looked_at(piece)

    def end(self) -> Iterator[bytes]:
        """Yield what is left."""
        if self._unpacker is not None:
            self._unpacker.end()
        elif not self._is_known:
            yield from self._looked_at(self._packed)
        if self._head is not None:
            yield self._seen(self._head)

    def _know(self, block: bytes) -> None:
        self._is_known = True
        if block.startswith(GZIP):
            self._unpacker = Unpacker(self._most)

    def _looked_at(self, block: bytes) -> Iterator[bytes]:
        if self._head is None:
            yield block
            return
        self._head += block
        if len(self._head) >= HEAD:
            yield self._seen(self._head)

    def _seen(self, head: bytearray) -> bytes:
        """Return the beginning of the text. Raises BadInput if it is no JSONL."""
        self._head = None
        text = bytes(head)
        kind = kind_of(text[:HEAD])
        if kind is not None:
            raise BadInput([Problem(f"the input is {kind}")])
        return text
