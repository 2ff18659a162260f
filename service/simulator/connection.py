"""Below HTTP: connections that can be dropped, bodies that trickle or end early."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

TRANSPORT = "simulator.transport"
TRICKLE_SECONDS = 0.05
"""A trickling body moves once in so many seconds."""


class Dropped(Exception):
    """The call ends here, without an answer or without the rest of it."""


class DroppableProtocol(H11Protocol):
    """uvicorn's HTTP protocol, with the transport in each request's scope."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Hand the transport on to the application."""
        super().connection_made(transport)
        served: Any = self.app

        async def with_transport(
            scope: MutableMapping[str, Any], receive: Receive, send: Send
        ) -> None:
            scope[TRANSPORT] = transport
            await served(scope, receive, send)

        self.app = with_transport


async def drop(scope: Scope, receive: Receive, *, flush: bool = False) -> None:
    """Close the connection under a request, after what was sent if `flush`."""
    transport: asyncio.Transport = scope[TRANSPORT]
    if flush:
        transport.close()
    else:
        transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass


def ending_after(receive: Receive, limit: int) -> Receive:
    """A request body whose connection is dropped after so many bytes."""
    left = limit

    async def limited() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0 or (left == 0 and message.get("more_body", False)):
            raise Dropped
        return message

    return limited


def trickling_in(receive: Receive, bytes_per_second: float) -> Receive:
    """A request body that is read slowly."""

    async def slowed() -> Message:
        message = await receive()
        await asyncio.sleep(len(message.get("body", b"")) / bytes_per_second)
        return message

    return slowed


def trickling_out(app: ASGIApp, bytes_per_second: float) -> ASGIApp:
    """An answer whose body is sent slowly."""
    step = max(1, int(bytes_per_second * TRICKLE_SECONDS))

    async def send_slowly(message: Message, send: Send) -> None:
        body = message.get("body", b"")
        if message["type"] != "http.response.body" or not body:
            await send(message)
            return
        for start in range(0, len(body), step):
            piece = body[start : start + step]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(len(piece) / bytes_per_second)
        if not message.get("more_body", False):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return _sending(app, send_slowly)


def cut_out(app: ASGIApp, *, limit: int, clean: bool) -> ASGIApp:
    """An answer whose body ends after `limit` bytes.

    A clean end looks like a whole answer that is shorter; else the connection is closed.
    """
    left = limit
    ended = False

    async def send_part(message: Message, send: Send) -> None:
        nonlocal left, ended
        if ended:
            return
        if message["type"] == "http.response.start":
            headers = message["headers"]
            if clean:
                headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
            await send({**message, "headers": headers})
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if len(body) < left or (len(body) == left and not more):
            left -= len(body)
            await send(message)
            return
        ended = True
        piece = body[:left]
        await send({"type": "http.response.body", "body": piece, "more_body": not clean})
        if not clean:
            raise Dropped

    return _sending(app, send_part)


def _sending(app: ASGIApp, through: Callable[[Message, Send], Awaitable[None]]) -> ASGIApp:
    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_through(message: Message) -> None:
            await through(message, send)

        await app(scope, receive, send_through)

    return wrapped
