"""Ports on 127.0.0.1."""

import socket
import time
from datetime import timedelta

GRACE = timedelta(seconds=2)
"""How long a port may stay taken after its process was killed."""


def becomes_free(port: int) -> bool:
    """Return whether a server can listen on the port, now or in a moment."""
    deadline = time.monotonic() + GRACE.total_seconds()
    while not _is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Servers set this too: a port with closed connections in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port on which no process listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def port_like(last: int | None) -> int:
    """Return the port of the last run, so that clients find it; if it is taken, another."""
    return last if last is not None and becomes_free(last) else free_port()
