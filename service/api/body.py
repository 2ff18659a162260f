"""Request bodies: read in blocks, within bounds, from clients that may vanish.

`service.api.protocol` ends those that are slow, `service.api.memory` counts what is held.
"""

from collections.abc import AsyncIterator

from anyio.lowlevel import checkpoint
from starlette.requests import ClientDisconnect, Request

from service.api.memory import Holding
from service.api.problems import BROKEN_BODY, CUT_OFF, UNSUPPORTED, HttpProblem, bad_input
from service.api.services import Services
from service.payloads.unpacking import GZIP, Unpacker
from service.rules.errors import BadInput, Problem

BLOCK = 1 << 18
SMALL_BODY = 4_000_000
"""The most bytes of a body that FastAPI reads whole. Parsed, they may take twenty times as much."""


async def blocks(request: Request, limit: int | None = None) -> AsyncIterator[bytes]:
    """The body in blocks of about `BLOCK` bytes, for those who keep none.

    Raises HttpProblem if it does not arrive whole, or has more than `limit` bytes, and BadInput if
    it cannot be unpacked.
    """
    _check(request, limit)
    _holding(request).stream()
    held = bytearray()
    async for piece in _pieces(request, limit):
        held += piece
        if len(held) >= BLOCK:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


async def at_most(request: Request, limit: int, *, allowed: int | None = None) -> bytearray:
    """The whole body; where it is longer than `limit`, at least one byte more than that.

    A file that was gzipped is unpacked, also where no header says so. Raises HttpProblem and
    BadInput as `blocks` does, with `allowed` for its limit.
    """
    _check(request, allowed)
    data = bytearray()
    async for piece in _pieces(request, allowed):
        data += piece
        if len(data) > limit:
            break
    if not data.startswith(GZIP):
        return data
    unpacker = Unpacker(limit if allowed is None else min(limit, allowed))
    found = bytearray()
    async for piece in _unpacked(request, unpacker, bytes(data)):
        found += piece
    unpacker.end()
    return found


def _holding(request: Request) -> Holding:
    holding = request.state.holding
    assert isinstance(holding, Holding)
    return holding


def _check(request: Request, limit: int | None) -> None:
    if limit is not None and int(request.headers.get("content-length", 0)) > limit:
        raise _too_large(limit)
    coding = _coding(request)
    if coding not in {"identity", *_GZIP_NAMES}:
        raise HttpProblem(
            UNSUPPORTED,
            f"content-encoding {coding!r}: send the body gzipped, or as it is",
            headers={"Accept-Encoding": "gzip"},
        )


_GZIP_NAMES = frozenset({"gzip", "x-gzip"})


def _coding(request: Request) -> str:
    return request.headers.get("content-encoding", "identity").strip().lower()


async def _pieces(request: Request, limit: int | None) -> AsyncIterator[bytes]:
    """The body as it arrives, unpacked if it is gzipped on its way."""
    total, unpacker = 0, None
    if _coding(request) in _GZIP_NAMES:
        services = request.app.state.services
        assert isinstance(services, Services)
        most = services.settings.unpacked_bytes
        unpacker = Unpacker(most if limit is None else min(limit, most))
    try:
        async for piece in request.stream():
            total += len(piece)
            if limit is not None and total > limit:
                raise _too_large(limit)
            if unpacker is None:
                yield piece
                continue
            async for unpacked in _unpacked(request, unpacker, piece):
                yield unpacked
    except ClientDisconnect:
        raise HttpProblem(BROKEN_BODY, CUT_OFF) from None
    if unpacker is not None:
        unpacker.end()


async def _unpacked(request: Request, unpacker: Unpacker, data: bytes) -> AsyncIterator[bytes]:
    """Unpack what has arrived, a piece at a time: it may be a thousand times as much."""
    for piece in unpacker.feed(data):
        _holding(request).arrived(len(piece))
        yield piece
        await checkpoint()  # others have their turn


def _too_large(limit: int) -> HttpProblem:
    return bad_input(
        BadInput([Problem(f"the producer's submissions may have {limit:,} bytes")], too_large=True)
    )
