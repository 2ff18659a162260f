"""Answers that take long: event streams and downloads, their number, and their end."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

from anyio import CapacityLimiter, Event, create_task_group, move_on_after
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api.problems import RETRY_AFTER, TOO_MANY_STREAMS, HttpProblem

MOST = 200
SHARE = 20
"""The most streams that one producer may have open."""
DOWNLOADS = 200
DOWNLOADS_SHARE = 50
"""The most large answers that one producer may be reading. Each holds a few blocks in memory."""
AT_ONCE = 3
"""Blocks of a small answer: compressed, it has a beginning and an end."""
THREADS = 2
"""The threads that read jobs for all streams, so that other calls keep their connections."""


class Streams:
    """The streams that are open in this process."""

    def __init__(self, most: int = MOST, share: int = SHARE) -> None:
        self.limiter = CapacityLimiter(THREADS)
        self._most = most
        self._share = share
        self._open: Counter[str | None] = Counter()
        self._ending = Event()

    def is_full_for(self, producer: str | None) -> bool:
        """Whether the producer can open no more. An operator (None) has no share."""
        over_share = producer is not None and self._open[producer] >= self._share
        return over_share or self._open.total() >= self._most

    def check(self, producer: str | None) -> None:
        """Raises HttpProblem if the producer can open no more."""
        if self.is_full_for(producer):
            raise HttpProblem(
                TOO_MANY_STREAMS,
                "too many streams or downloads are open; close one, or try again after"
                " Retry-After seconds",
                headers=RETRY_AFTER,
            )

    @property
    def is_ending(self) -> bool:
        return self._ending.is_set()

    @contextmanager
    def opened(self, producer: str | None) -> Iterator[None]:
        self._open[producer] += 1
        try:
            yield
        finally:
            self._open[producer] -= 1

    async def pause(self, seconds: float) -> None:
        """Wait for some seconds, or until the streams have to end."""
        with move_on_after(seconds):
            await self._ending.wait()

    def end(self) -> None:
        """Make every stream end, since the server is about to stop."""
        self._ending.set()


def download(request: Request, blocks: Iterator[bytes], **options: Any) -> Response:
    """An answer of blocks. One of many counts as a download. Raises HttpProblem.

    The first are read before the status is sent, so that a storage error can still be a 503.
    """
    first = list(islice(blocks, AT_ONCE + 1))
    if len(first) <= AT_ONCE:
        return StreamingResponse(iter(first), **options)
    downloads, producer = request.app.state.services.downloads, request.state.caller.sees
    assert isinstance(downloads, Streams)
    downloads.check(producer)
    return _Download(chain(first, blocks), downloads, producer, **options)


class _Download(StreamingResponse):
    def __init__(
        self, blocks: Iterator[bytes], downloads: Streams, producer: str | None, **options: Any
    ) -> None:
        super().__init__(blocks, **options)
        self._downloads = downloads
        self._producer = producer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._downloads.opened(self._producer):
            await super().__call__(scope, receive, send)


class EventStream(StreamingResponse):
    """A response of server-sent events, which also ends when the client disconnects."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[bytes], streams: Streams, producer: str | None
    ) -> None:
        # Proxies must neither cache nor buffer the events.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers)
        self._streams = streams
        self._producer = producer

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.opened(self._producer):
            async with create_task_group() as group:

                async def end_with_the_client() -> None:
                    await self.listen_for_disconnect(receive)
                    group.cancel_scope.cancel()

                group.start_soon(end_with_the_client)
                await self.stream_response(send)
                group.cancel_scope.cancel()
