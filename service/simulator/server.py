"""Running the simulator: its port, its directory, its signals."""

import contextlib
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import uvicorn

from service.simulator import scenario as scenarios
from service.simulator.app import application
from service.simulator.connection import DroppableProtocol
from service.simulator.simulation import Simulation


class CannotServe(Exception):
    """The simulator cannot start; the message says why and needs no traceback."""


class _Server(uvicorn.Server):
    """A server that says when it is ready and lets go of held calls when it stops."""

    def __init__(self, config: uvicorn.Config, simulation: Simulation) -> None:
        super().__init__(config)
        self._simulation = simulation

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            print(f"simulator listening on http://{host}:{port}", flush=True)  # noqa: T201 - what it prints is its interface

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._simulation.holds.release(answered=False)
        await super().shutdown(sockets)


def serve(
    *,
    port: int,
    batch_seconds: float = 1.0,
    scenario: Path | None = None,
    data: Path | None = None,
    host: str = "127.0.0.1",
) -> None:
    """Serve until SIGTERM or SIGINT.

    Port 0 picks a free one; the line printed when ready tells which. Without `data` all state is
    gone at the end, with it a later call goes on where this one was, even after a kill.
    Raises CannotServe.
    """
    try:
        played = scenarios.load(scenario) if scenario else None
    except scenarios.ScenarioError as error:
        raise CannotServe(str(error)) from error
    with _listening(host, port) as listener, _directory(data) as root:
        simulation = Simulation(root, batch_seconds=batch_seconds, scenario=played)
        config = uvicorn.Config(
            application(simulation),
            http=DroppableProtocol,
            ws="none",
            log_level="error",
            access_log=False,
            timeout_keep_alive=75,  # no answer shall be lost but by order
            timeout_graceful_shutdown=1,
        )
        server = _Server(config, simulation)
        with contextlib.suppress(KeyboardInterrupt), _terminated_like_interrupted():
            server.run(sockets=[listener])


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Only where the protocol is named does asyncio turn Nagle's algorithm off, which otherwise
    # delays each small answer by 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
        yield listener
    except OSError as error:
        raise CannotServe(f"cannot listen on {host}:{port}: {error.strerror}") from error
    finally:
        listener.close()


@contextlib.contextmanager
def _directory(data: Path | None) -> Iterator[Path]:
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="simulator-") as root:
        yield Path(root)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Make a SIGTERM that uvicorn raises again unwind the stack, so that nothing is left behind."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
