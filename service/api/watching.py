"""Long requests end when the right to make them does: a token that ends, a disabled producer."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import TypeVar

import structlog
from anyio import CancelScope, to_thread
from starlette.responses import Response, StreamingResponse

from service.api.auth import Caller
from service.api.problems import HttpProblem
from service.api.services import Services
from service.store.engine import is_unavailable

log = structlog.get_logger()

LOOK_SECONDS = 1.0

T = TypeVar("T")


@asynccontextmanager
async def as_long_as(
    holds: Callable[[], bool], services: Services, *, otherwise: HttpProblem
) -> AsyncIterator[None]:
    """Cancel the block and raise `otherwise` about a second after `holds` says no."""
    with CancelScope() as scope:
        watching = asyncio.create_task(_watch(holds, services, scope))
        try:
            yield
        finally:
            watching.cancel()
    if scope.cancelled_caught:
        raise otherwise


def while_valid(answer: Response, services: Services, caller: Caller) -> Response:
    """Cut a streamed answer off about a second after the caller's token ends."""
    if isinstance(answer, StreamingResponse):
        is_valid = partial(services.authenticator.is_valid, caller)
        answer.body_iterator = _while(is_valid, services, answer.body_iterator)
    return answer


async def _while(
    holds: Callable[[], bool], services: Services, blocks: AsyncIterable[T]
) -> AsyncIterator[T]:
    looked_at = monotonic()
    async for block in blocks:
        if monotonic() - looked_at > LOOK_SECONDS:
            if await _has_ended(holds, services):
                raise ConnectionAbortedError("the caller's token ended meanwhile")
            looked_at = monotonic()
        yield block


async def _watch(holds: Callable[[], bool], services: Services, scope: CancelScope) -> None:
    has_ended = False
    while not has_ended:
        await asyncio.sleep(LOOK_SECONDS)  # most are done before the first look
        has_ended = await _has_ended(holds, services)
    scope.cancel()


async def _has_ended(holds: Callable[[], bool], services: Services) -> bool:
    try:
        return not await to_thread.run_sync(holds, limiter=services.streams.limiter)
    except Exception as error:
        # Nobody knows. What stores an outcome looks again.
        if not is_unavailable(error):
            log.exception("watching_failed")
        return False
