"""Server-sent event streams: their number, and their end when the server stops."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from anyio import CapacityLimiter, Event, create_task_group, move_on_after
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

MOST = 200
SHARE = 20
"""The most streams that one producer may have open."""
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
