"""Answers in one piece: sent as the client takes them, and counted for as long as they are held."""

from collections.abc import Awaitable, Callable

from starlette.types import Message, Send

from service.api.memory import Holding
from service.api.problems import HttpProblem

PIECE = 1 << 16
"""Bytes that are sent at a time. Smaller answers are not counted: a connection holds as many."""


class Answer:
    """The sending of one answer. One that is streamed is passed on as it is.

    Otherwise a page of a list, which may have megabytes, would lie in memory for every client that
    does not read it.
    """

    def __init__(
        self, send: Send, holding: Holding, refuse: Callable[[HttpProblem], Awaitable[None]]
    ) -> None:
        self._send = send
        self._holding = holding
        self._refuse = refuse
        self._start: Message | None = None
        self._is_refused = False

    async def send(self, message: Message) -> None:
        if self._is_refused:
            return
        if message["type"] == "http.response.start":
            self._start = message  # nothing is said until there is room for the rest
            return
        body = message.get("body", b"")
        is_large = len(body) > PIECE and not message.get("more_body")
        if self._start is not None:
            if is_large and not await self._has_room(len(body)):
                return
            start, self._start = self._start, None
            await self._send(start)
        if is_large:
            for at in range(0, len(body), PIECE):
                piece, more = body[at : at + PIECE], at + PIECE < len(body)
                await self._send({**message, "body": piece, "more_body": more})
        else:
            await self._send(message)

    async def _has_room(self, count: int) -> bool:
        try:
            self._holding.arrived(count)
        except HttpProblem as problem:
            self._is_refused = True
            await self._refuse(problem)
            return False
        return True
