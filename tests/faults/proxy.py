"""A TCP proxy on loopback that can treat its connections badly.

    with Proxy("127.0.0.1", 5432) as proxy:
        proxy.port                  # connect here instead
        proxy.cut()                 # reset every connection; new ones are taken
        with proxy.blackholed():    # nothing gets through, connections stay open
            ...
        proxy.rate = 100_000        # bytes a second and connection
        proxy.cut_after = 50_000    # reset each connection after so many bytes
        with proxy.refusing():      # new connections are reset, and so are those that were open
            ...

What was taken from one side while nothing got through is handed on afterwards, even if its
sender has hung up by then: so a request can arrive long after its caller gave up on it.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self, TypeVar

BLOCK = 1 << 16
RESET = struct.pack("ii", 1, 0)

T = TypeVar("T")


class Proxy:
    """Forwards to one server. Runs on a thread of its own."""

    def __init__(self, host: str, port: int, *, tls: SSLContext | None = None) -> None:
        """With `tls`, what connects here speaks TLS, and the server does not."""
        self._upstream = (host, port)
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._refusing = False
        self.port = 0
        self.rate: float | None = None
        self.cut_after: int | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    @property
    def connected(self) -> bool:
        """Whether anybody is through to the server."""
        return bool(self._writers)

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        self._do(self._cut())

    @contextmanager
    def blackholed(self) -> Iterator[None]:
        """Let nothing through in the meantime. Connections are accepted and stay open."""
        self.stop_flow()
        try:
            yield
        finally:
            self.let_flow()

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Reset what is open, and every new connection in the meantime."""
        self.refuse()
        try:
            yield
        finally:
            self.accept()

    def stop_flow(self) -> None:
        """From here on nothing gets through."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def let_flow(self) -> None:
        """Hand on what was held back, and everything after it."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def refuse(self) -> None:
        """From here on every connection is reset."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """Take connections again."""
        self._refusing = False

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, ssl=self._tls)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _cut(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the proxy closes
        finally:
            self._connections.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        try:
            there, back = await asyncio.open_connection(*self._upstream)
        except OSError:
            _reset(writer)
            return
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._pump(reader, back, writer), self._pump(there, writer, back))
        finally:
            self._writers -= {writer, back}
            for each in (writer, back):
                each.close()

    async def _pump(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        behind: asyncio.StreamWriter,
    ) -> None:
        """Forward one direction. `behind` is the way back, which ends where this one breaks."""
        try:
            passed = 0
            while data := await source.read(BLOCK):
                await self._flowing.wait()
                passed += len(data)
                if self.rate is not None:
                    await asyncio.sleep(len(data) / self.rate)
                if self.cut_after is not None and passed > self.cut_after:
                    raise ConnectionResetError
                target.write(data)
                await target.drain()
            await self._flowing.wait()
            if target.can_write_eof():
                target.write_eof()
            else:  # TLS ends both directions at once
                target.close()
        except OSError:
            _reset(target)
            _reset(behind)


def _reset(writer: asyncio.StreamWriter) -> None:
    opened = writer.get_extra_info("socket")
    if opened is not None:
        with suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
