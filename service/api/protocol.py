"""Below HTTP: how many clients may connect, how long they may take, and what cannot be read.

A connection always waits for one of four things, and for none of them without end: for the head of
a request, for the body, for the client to take its answer, or for the client to hang up.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import h11
import structlog
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from service.api.connections import Rooms, plain, site
from service.api.problems import (
    BROKEN_BODY,
    MEDIA_TYPE,
    RETRY_AFTER,
    SLOW_BODY,
    TOO_MANY_CONNECTIONS,
    HttpProblem,
)

log = structlog.get_logger()

HEAD_SECONDS = 15.0
"""For the head of a request, from its first byte; for that of the first one, from the beginning."""
BODY_BYTES_PER_SECOND = 1000
"""The slowest that a body may arrive, on average over any `BODY_PATIENCE` seconds."""
BODY_PATIENCE = 60.0
BODY_SECONDS = 6 * 3600.0
"""For a whole body: long enough for 5 GiB at 250 kB/s."""
ANSWER_PATIENCE = 900.0
"""Seconds that a caller may go without taking a byte of its answer. A stranger has less."""
LINGER_SECONDS = 3.0
"""For a client that still sends to read its answer. Closed at once, the connection would be reset,
and the answer be lost with it."""
LOOK_SECONDS = 0.5
HEAD_BYTES = 1 << 16
"""The most that a request's line and headers take: a query may hold what is else in a body."""
HEAD_READ = 1 << 12
"""Bytes that are read at a time before anybody wants the body: the caller may be a stranger, and
one of thousands."""
BODY_READ = 1 << 16
AHEAD = 1 << 14
"""Bytes of further requests that a client may send before it has the answer to the present one."""

_CALL = re.compile(
    rb"POST (/together(/v1){0,2}|/openai/v1)/"
    rb"(chat/completions|audio/transcriptions|audio/translations) HTTP/"
)
"""How the head of a call begins (service.api.dropin.calls)."""


class Protocol(H11Protocol):
    """uvicorn's HTTP protocol, with deadlines. What it refuses gets a problem document."""

    transport: "_Transport"

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn = _Connection(h11.SERVER, HEAD_BYTES)
        assert isinstance(config, FrontConfig)
        self._rooms = config.rooms
        now = self.loop.time()
        self.since = now
        """When the present wait for a head, a body or a hang-up began."""
        self._gone: Callable[[], None] | None = None
        self.site = ""
        self._head_began = False
        self._patience = BODY_PATIENCE
        self._looked_at = now
        self._untaken, self._taken_at = 0, now

    @property
    def address(self) -> str:
        return self.client[0] if self.client else ""

    @property
    def is_spare(self) -> bool:
        """Whether it may be ended for the sake of another: no request is under way on it."""
        is_over = self.transport.is_closing() or self._awaits_head
        return is_over and not self.transport.get_write_buffer_size()

    @property
    def is_proven(self) -> bool:
        return self.cycle is not None and not self.transport.is_closing()

    def drop(self) -> None:
        self.connections.discard(self)
        self._rooms.leave(self)
        self.transport.abort()

    @property
    def still_sends(self) -> bool:
        """Whether the client may be in the middle of a request."""
        return self.cycle is None or self.conn.their_state in {h11.SEND_BODY, h11.ERROR}

    @property
    def _is_known(self) -> bool:
        """Whether the gate has let the present caller in."""
        return self.scope is not None and "caller" in self.scope["state"]

    @property
    def _awaits_head(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    # --- what asyncio calls -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Transport(transport, self))
        self.transport.read_at_most(HEAD_READ)
        if self.client is not None:
            self.client = (plain(self.client[0]), self.client[1])
            self.site = site(self.client[0])
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)
        if self._rooms.enter(self):
            self._rooms.heads.grow(self, 0)
        else:
            self._refuse_for_want_of_room()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # it was answered already
        if self._awaits_head and not self._head_began:
            self._head_began, self.since = True, self.loop.time()
            is_for_calls = self in self._rooms.for_calls and not _CALL.match(data)
            if is_for_calls and not self._rooms.enter_ordinary(self):
                self._refuse_for_want_of_room()
                return
        earned = len(data) / BODY_BYTES_PER_SECOND
        self._patience = min(BODY_PATIENCE, self._patience + earned)
        before = self.cycle
        super().data_received(data)
        if self.cycle is before:
            self._look_at_rest(len(data))
        else:
            self._rooms.heads.leave(self)
            self.since, self._head_began = self.loop.time(), False
            self._patience = BODY_PATIENCE
            self.scope["state"]["waits"] = self._wait
            if self.cycle.more_body:
                # Nothing of it is read before somebody wants it: the caller may be a stranger.
                self.flow.pause_reading()

    def _look_at_rest(self, count: int) -> None:
        """Bound what is kept of requests that are not there yet."""
        if self.transport.is_closing():
            return
        if self._awaits_head:
            self._rooms.heads.grow(self, count)
        elif not self.cycle.more_body and len(self.conn.trailing_data[0]) > AHEAD:
            self._end("sends_on")

    def eof_received(self) -> None:
        """The client sends no more: a body that is not whole by now never will be."""
        if self.transport.is_closing():
            return
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete:
            self.conn.receive_data(b"")
            self.handle_events()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._rooms.leave(self)
        super().connection_lost(exc)
        if self._gone is not None:
            self._gone()

    def _wait(self, gone: Callable[[], None]) -> None:
        """The present request is a call that is stored, and may wait for hours.

        `gone` is called if the client hangs up meanwhile: a task for each would weigh more.
        """
        if self.transport.is_closing():
            gone()
            return
        self._gone = gone
        self._rooms.wait(self)

    # --- what uvicorn calls -----------------------------------------------------------------------

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        self._gone = None
        answered = self.cycle
        super().on_response_complete()
        self.transport.read_at_most(HEAD_READ)
        if self.cycle is answered and self in self._rooms.for_calls:
            self._rooms.heads.grow(self, 0)  # it may call again, but not keep the place for that

    def send_400_response(self, msg: str) -> None:
        self._refuse(HttpProblem(BROKEN_BODY, msg))

    # --- deadlines --------------------------------------------------------------------------------

    def _look(self) -> None:
        """End the connection if its client has taken too long."""
        now = self.loop.time()
        passed, self._looked_at = now - self._looked_at, now
        untaken = self.transport.get_write_buffer_size()
        if untaken != self._untaken:
            self._untaken, self._taken_at = untaken, now
        if untaken:
            if now - self._taken_at > (ANSWER_PATIENCE if self._is_known else HEAD_SECONDS):
                self._end("slow_reader")
        elif self.transport.is_closing():
            if now - self.since > LINGER_SECONDS:
                self.transport.abort()
        elif self._awaits_head:
            # uvicorn ends a connection that is idle between two requests.
            is_due = self._head_began or not self.is_proven
            if is_due and now - self.since > HEAD_SECONDS:
                self._end("slow_head" if self._head_began else "idle")
        elif self.cycle.more_body:
            self._look_at_body(passed, now - self.since)
        self._timer = self.loop.call_later(LOOK_SECONDS, self._look)

    def _look_at_body(self, passed: float, waited: float) -> None:
        if not self.flow.read_paused:  # else it is the API that keeps the client waiting
            self._patience -= passed
        if self._patience < 0 or waited > BODY_SECONDS:
            self._refuse(
                HttpProblem(
                    SLOW_BODY,
                    f"the body came slower than {BODY_BYTES_PER_SECOND:,} bytes a second for"
                    f" {BODY_PATIENCE:.0f} seconds, or took over {BODY_SECONDS / 3600:.0f} hours",
                )
            )

    def _end(self, reason: str) -> None:
        log.info("connection_ended", reason=reason, client=self.address)
        self.transport.abort()

    def _refuse_for_want_of_room(self) -> None:
        self._refuse(
            HttpProblem(
                TOO_MANY_CONNECTIONS,
                "too many connections are open; close some, or try again later",
                headers=RETRY_AFTER,
            )
        )

    def _refuse(self, problem: HttpProblem) -> None:
        """Answer, if no answer has begun, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            # Whoever reads the body learns that no more of it comes, and answers nobody.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self.scope["state"]["refused"] = problem  # for the access log
        else:
            log.info("connection_refused", reason=problem.kind.slug, client=self.address)
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = problem.response().body
            headers = [
                ("content-type", MEDIA_TYPE),
                ("content-length", str(len(body))),
                ("connection", "close"),
                *(problem.headers or {}).items(),
            ]
            for event in (
                h11.Response(status_code=problem.kind.status, headers=headers),
                h11.Data(data=bytes(body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.since = self.loop.time()
        self.transport.close()


class FrontConfig(Config):
    """uvicorn's configuration, with the room for connections."""

    def __init__(self, app: Any, rooms: Rooms, **options: Any) -> None:
        super().__init__(app, http=Protocol, ws="none", **options)
        self.rooms = rooms


class _Connection(h11.Connection):
    """An answer to a request that has not come whole is the last on its connection."""

    def send(self, event: h11.Event) -> bytes | None:  # type: ignore[override]  # it is overloaded
        if isinstance(event, h11.Response) and self.their_state is h11.SEND_BODY:
            headers: Any = [*event.headers, (b"connection", b"close")]
            event = replace(event, headers=headers)
        return super().send(event)


class _Transport(asyncio.Transport):
    """A transport that closes later while its client still sends; see `LINGER_SECONDS`."""

    def __init__(self, inner: asyncio.Transport, protocol: Protocol) -> None:
        super().__init__()
        self._inner = inner
        self._protocol = protocol
        self._lingers = False

    def close(self) -> None:
        if self._lingers:
            return
        if not self._protocol.still_sends or not self._inner.can_write_eof():
            self._inner.close()
            return
        self._lingers = True
        self._inner.resume_reading()  # what comes is dropped
        try:
            self._inner.write_eof()
        except OSError:  # the client has gone
            self._inner.abort()

    def is_closing(self) -> bool:
        return self._lingers or self._inner.is_closing()

    def abort(self) -> None:
        self._inner.abort()

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        self._inner.write(data)

    def get_write_buffer_size(self) -> int:
        return self._inner.get_write_buffer_size()

    def pause_reading(self) -> None:
        if not self._lingers:
            self._inner.pause_reading()

    def resume_reading(self) -> None:
        self.read_at_most(BODY_READ)
        self._inner.resume_reading()

    def read_at_most(self, count: int) -> None:
        """Read so many bytes at a time. asyncio reads 256 kB, if they are there."""
        if hasattr(self._inner, "max_size"):
            self._inner.max_size = count

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._inner.get_extra_info(name, default)
