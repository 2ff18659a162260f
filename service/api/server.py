"""Running the API: its port and its end."""

import contextlib
import ctypes
import gc
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from math import ceil
from types import FrameType

import structlog
import uvicorn

from config.settings import Settings, SettingsError
from service.api.app import create_app
from service.api.connections import Room, Rooms
from service.api.protocol import FrontConfig
from service.api.turnstile import Turnstile

log = structlog.get_logger()

_M_MMAP_THRESHOLD = -3  # malloc.h
SWITCH_SECONDS = 0.0005
"""How long a thread that computes keeps the others waiting. Python's 5 ms add up: storing a job
takes some ten round trips to Postgres, and each ends with waiting for a turn."""

OPEN_FILES = 256
"""Files that are open beside connections: blobs, Postgres, the log."""
GRACE_SECONDS = 20
"""How long requests that are under way may go on after SIGTERM."""


class Server(uvicorn.Server):
    """A server of the API that says when it is ready, and where. Raises SettingsError."""

    def __init__(self, settings: Settings) -> None:
        self._app = create_app(settings)
        super().__init__(
            FrontConfig(
                Turnstile(self._app, lambda: self._app.state.services),
                Rooms(
                    Room(
                        most=settings.max_connections,
                        share=settings.max_connections_per_address,
                        trusted=settings.trusted_proxies,
                    ),
                    most_calls=settings.max_calls,
                ),
                timeout_keep_alive=ceil(settings.keep_alive_seconds.total_seconds()),
                proxy_headers=False,  # service.api.forwarded reads them
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is there by now stays. To look through it for cycles again and again would keep every
        # caller waiting for a fifth of a second.
        gc.collect()
        gc.freeze()
        for listener in sockets or []:
            log.info("api_started", url=url_of(listener))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Streams would go on until the grace is over, and every deploy wait for them.
        self._app.state.services.streams.end()
        self._app.state.services.desk.end()
        await super().shutdown(sockets)


def serve(settings: Settings, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; port 0 takes a free one. Raises SettingsError."""
    sys.setswitchinterval(SWITCH_SECONDS)
    _return_memory()
    _allow_open_files(settings.max_connections + settings.max_calls + OPEN_FILES)
    server = Server(settings)
    with listening(host, port) as listener, _ended_by_signals():
        server.run(sockets=[listener])
    log.info("api_stopped")


def _allow_open_files(wanted: int) -> None:
    """Let this process have so many open files, or say that it cannot."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        log.warning(
            "open_files_few",
            limit=most,
            wanted=wanted,
            hint="raise the hard limit of open files (ulimit -Hn, LimitNOFILE=), or lower"
            " HAULIER_MAX_CALLS or HAULIER_MAX_CONNECTIONS",
        )


def _return_memory() -> None:
    """Make glibc give large buffers back to the system at once, and grow them in place.

    Otherwise it keeps a heap for them that holds several times the bodies which are there.
    """
    with contextlib.suppress(AttributeError):  # other C libraries have no such choice
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


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
