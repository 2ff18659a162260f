"""Request bodies: read in blocks, within bounds, from clients that may vanish.

`service.api.protocol` ends those that are slow, `service.api.memory` counts what is held.
"""

from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from service.api.memory import Holding
from service.api.problems import BROKEN_BODY, CUT_OFF, UNSUPPORTED, HttpProblem, bad_input
from service.rules.errors import BadInput, Problem

BLOCK = 1 << 18
SMALL_BODY = 4_000_000
"""The most bytes of a body that FastAPI reads whole. Parsed, they may take twenty times as much."""


async def blocks(request: Request, limit: int | None = None) -> AsyncIterator[bytes]:
    """The body in blocks of about `BLOCK` bytes, for those who keep none.

    Raises HttpProblem if it does not arrive whole, or has more than `limit` bytes.
    """
    holding = request.state.holding
    assert isinstance(holding, Holding)
    _check(request, limit)
    holding.stream()
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

    Raises HttpProblem as `blocks` does, with `allowed` for its limit.
    """
    _check(request, allowed)
    data = bytearray()
    async for piece in _pieces(request, allowed):
        data += piece
        if len(data) > limit:
            break
    return data


def _check(request: Request, limit: int | None) -> None:
    if limit is not None and int(request.headers.get("content-length", 0)) > limit:
        raise _too_large(limit)
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise HttpProblem(UNSUPPORTED, f"content-encoding {coding!r}: send the body as it is")


async def _pieces(request: Request, limit: int | None) -> AsyncIterator[bytes]:
    total = 0
    try:
        async for piece in request.stream():
            total += len(piece)
            if limit is not None and total > limit:
                raise _too_large(limit)
            yield piece
    except ClientDisconnect:
        raise HttpProblem(BROKEN_BODY, CUT_OFF) from None


def _too_large(limit: int) -> HttpProblem:
    return bad_input(
        BadInput([Problem(f"the producer's submissions may have {limit:,} bytes")], too_large=True)
    )
