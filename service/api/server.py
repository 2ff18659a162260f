"""Running the API: its port and its end."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from types import FrameType

import structlog
import uvicorn

from config.settings import Settings, SettingsError
from service.api.app import create_app
from service.api.protocol import Protocol

log = structlog.get_logger()

GRACE_SECONDS = 20
"""How long requests that are under way may go on after SIGTERM."""


class Server(uvicorn.Server):
    """A server of the API that says when it is ready, and where. Raises SettingsError."""

    def __init__(self, settings: Settings) -> None:
        self._app = create_app(settings)
        super().__init__(
            uvicorn.Config(
                self._app,
                http=Protocol,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            log.info("api_started", url=url_of(listener))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Streams would go on until the grace is over, and every deploy wait for them.
        self._app.state.services.streams.end()
        await super().shutdown(sockets)


def serve(settings: Settings, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; port 0 takes a free one. Raises SettingsError."""
    server = Server(settings)
    with listening(host, port) as listener, _ended_by_signals():
        server.run(sockets=[listener])
    log.info("api_stopped")


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens. Raises SettingsError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # With its protocol named: asyncio turns Nagle's algorithm off only where it sees TCP.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    with listener:
        yield listener


def url_of(listener: socket.socket) -> str:
    """Where it can be reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Make the signal that uvicorn raises again at its end unwind the stack: a clean exit."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, previous)
