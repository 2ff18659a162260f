"""Long requests end when the right to make them does: a token that ends, a disabled producer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from anyio import CancelScope, to_thread

from service.api.problems import HttpProblem
from service.api.services import Services
from service.store.engine import is_unavailable

log = structlog.get_logger()

LOOK_SECONDS = 1.0


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


async def _watch(holds: Callable[[], bool], services: Services, scope: CancelScope) -> None:
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            if await to_thread.run_sync(holds, limiter=services.streams.limiter):
                continue
        except Exception as error:
            if not is_unavailable(error):
                log.exception("watching_failed")
            continue  # nobody knows; the statement that stores the outcome looks again
        scope.cancel()
        return
