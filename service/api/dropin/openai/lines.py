"""Result lines in OpenAI's shape. What the model answered stays the provider's bytes."""

from collections.abc import Iterable, Iterator
from itertools import count
from uuid import UUID

import msgspec

BLOCK = 1 << 18


class _Response(msgspec.Struct):
    body: msgspec.Raw
    status_code: int = 200
    request_id: str | None = None


class _Line(msgspec.Struct):
    custom_id: str
    id: str | None = None
    response: _Response | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")
    attempts: int | msgspec.UnsetType = msgspec.UNSET


class _ShownResponse(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _ShownLine(msgspec.Struct, omit_defaults=True):
    id: str
    custom_id: str
    response: _ShownResponse | None
    error: msgspec.Raw
    attempts: int | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(_Line)
_encoder = msgspec.json.Encoder()


def in_openais_shape(blocks: Iterable[bytes], job_id: UUID) -> Iterator[bytes]:
    """Give every line the fields that OpenAI's have: `id, custom_id, response, error`.

    A dead request's line keeps its `attempts`. Ids that the provider left out are made up, the same
    ones each time.
    """
    numbers = count()
    held: list[bytes] = []
    size = 0
    for line in _lines(blocks):
        shown = _shown(line, f"batch_req_{job_id.hex}_{next(numbers)}")
        held += shown, b"\n"
        size += len(shown) + 1
        if size >= BLOCK:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _shown(line: bytes, made_up: str) -> bytes:
    try:
        found = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return line  # whoever reads it may make more of it
    own = found.id or made_up
    response = None
    if (answer := found.response) is not None:
        response = _ShownResponse(answer.status_code, answer.request_id or own, answer.body)
    return _encoder.encode(_ShownLine(own, found.custom_id, response, found.error, found.attempts))


def _lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines without their ends. A line may span many blocks, a block hold many lines."""
    begun: list[bytes] = []
    for block in blocks:
        first, *more = block.split(b"\n")
        begun.append(first)
        if more:
            yield b"".join(begun)
            yield from more[:-1]
            begun = [more[-1]]
    if last := b"".join(begun):
        yield last
