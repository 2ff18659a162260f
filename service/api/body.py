"""Request bodies: read in blocks, within bounds, from clients that may be slow or vanish."""

from collections.abc import AsyncIterator

from anyio import fail_after
from starlette.requests import ClientDisconnect, Request

from service.api.problems import BROKEN_BODY, SLOW_BODY, UNSUPPORTED, HttpProblem, bad_input
from service.rules.errors import BadInput, Problem

BLOCK = 1 << 20
SMALL_BODY = 8_000_000
"""The most bytes of a body that FastAPI reads whole, which it does before it looks at the token."""
PATIENCE = 60.0
"""Seconds that a client may be silent in the middle of a body."""


async def blocks(request: Request, limit: int | None = None) -> AsyncIterator[bytes]:
    """The body in blocks of about a megabyte.

    Raises HttpProblem if it does not arrive whole, or has more than `limit` bytes.
    """
    if limit is not None and int(request.headers.get("content-length", 0)) > limit:
        raise _too_large(limit)
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise HttpProblem(UNSUPPORTED, f"content-encoding {coding!r}: send the body as it is")
    held = bytearray()
    total = 0
    arriving = request.stream()
    while (piece := await _next(arriving)) is not None:
        total += len(piece)
        if limit is not None and total > limit:
            raise _too_large(limit)
        held += piece
        if len(held) >= BLOCK:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


async def _next(arriving: AsyncIterator[bytes]) -> bytes | None:
    try:
        with fail_after(PATIENCE):
            return await anext(arriving, None)
    except TimeoutError:
        raise HttpProblem(
            SLOW_BODY,
            f"nothing came for {PATIENCE:.0f} seconds",
            headers={"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise HttpProblem(BROKEN_BODY, "the connection ended in the middle of the body") from None


def _too_large(limit: int) -> HttpProblem:
    return bad_input(
        BadInput([Problem(f"the producer's submissions may have {limit:,} bytes")], too_large=True)
    )


async def at_most(request: Request, limit: int, *, allowed: int | None = None) -> bytes:
    """The whole body; where it is longer than `limit`, at least one byte more than that.

    Raises HttpProblem as `blocks` does, with `allowed` for its limit.
    """
    data = bytearray()
    async for block in blocks(request, allowed):
        data += block
        if len(data) > limit:
            break
    return bytes(data)
