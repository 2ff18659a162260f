"""The answer to a call, which may begin long before its content is there.

SDKs give up after two repeats, however long they are told to wait. But they wait past their read
timeout as long as something comes. So the answer begins after `PATIENCE` seconds, and a blank line
follows as often. A status that is sent cannot be taken back: where the call ends in an error, or
this process stops, the connection is cut, and the SDK's repeat learns the rest.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.api import turns
from service.api.answering import PIECE
from service.api.auth import unauthorized
from service.api.calls.chunks import as_stream
from service.api.calls.desk import Desk
from service.api.calls.held import Ended, Held, Outcome
from service.api.calls.results import BATCH, JOB, Answer
from service.api.problems import WAIT_AGAIN, HttpProblem

PATIENCE = 15.0
"""Seconds until the answer begins, and between two signs of life."""

AGAIN = "2"
"""Seconds after which whoever was not answered comes again (Retry-After)."""


class Waiting(Response):
    """Waits for a call to end, and answers.

    Raises HttpProblem if it has to give up before the answer has begun, ConnectionAbortedError
    afterwards.
    """

    def __init__(
        self,
        desk: Desk,
        held: Held,
        place: AbstractContextManager[Any],
        *,
        is_streamed: bool,
        is_known: bool,
        told: Callable[[HttpProblem], Response],
    ) -> None:
        self._desk = desk
        self._held = held
        self._is_streamed = is_streamed
        self._is_known = is_known
        self._place = place
        self._told = told
        self._has_begun = False
        self._is_gone = False
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        turns.leave()
        with self._place, self._desk.holding(self._held, at_once=self._is_known):
            # From here on the connection counts among those of calls (service.api.protocol).
            scope["state"]["waits"](self._hang_up)
            outcome = await self._outcome(send)
            if outcome is not Ended.GONE:
                await self._finish(outcome, scope, receive, send)
                self._held.is_delivered = not self._is_gone

    def _hang_up(self) -> None:
        self._is_gone = True
        self._held.end(Ended.GONE)

    async def _outcome(self, send: Send) -> Outcome:
        while True:
            outcome = await self._held.wait(PATIENCE)
            if outcome is not None:
                return outcome
            await self._begin(send)
            sign = b": waiting\n\n" if self._is_streamed else b"\n"
            await send({"type": "http.response.body", "body": sign, "more_body": True})

    async def _begin(self, send: Send, length: int | None = None, batch: str | None = None) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        kind = "text/event-stream; charset=utf-8" if self._is_streamed else "application/json"
        headers = {
            "content-type": kind,
            # Nobody on the way may keep the signs of life.
            "cache-control": "no-store, no-transform",
            "x-accel-buffering": "no",
            JOB: str(self._held.job_id),
        }
        if length is not None:
            headers["content-length"] = str(length)
        if batch is not None:
            headers[BATCH] = batch
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})

    async def _finish(self, outcome: Outcome, scope: Scope, receive: Receive, send: Send) -> None:
        if isinstance(outcome, Answer):
            body = as_stream(outcome.body) if self._is_streamed else outcome.body
            length = None if self._is_streamed else len(body)
            await self._begin(send, length, outcome.batch)
            await _send(send, body)
            return
        problem = _problem(outcome)
        if not self._has_begun and isinstance(outcome, HttpProblem):
            await self._told(problem)(scope, receive, send)  # the call's own end: it is delivered
            return
        if not self._has_begun:
            raise problem
        if isinstance(outcome, HttpProblem) and self._is_streamed:
            # No SDK repeats a stream that has begun. But all read this.
            await _send(send, b"data: " + bytes(self._told(problem).body) + b"\n\n")
            return
        raise ConnectionAbortedError(f"call cut off: {problem.detail}")


def _problem(outcome: HttpProblem | Ended) -> HttpProblem:
    if isinstance(outcome, HttpProblem):
        return outcome
    if outcome is Ended.REVOKED:
        return unauthorized()
    return HttpProblem(
        WAIT_AGAIN,
        "this process of the API stops; the call goes on: repeat it to wait for its answer",
        headers={"Retry-After": AGAIN},
    )


async def _send(send: Send, body: bytes) -> None:
    for at in range(0, len(body), PIECE):
        piece = body[at : at + PIECE]
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
