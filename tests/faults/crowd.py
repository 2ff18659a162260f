"""Crowd: one producer opens as many connections as it can, and sends next to nothing on each.

    python -m tests.faults.crowd --connections 6400

Each way to do so meets a process of its own. Exits with 1 if one of them held more than 250 MB.
"""

import argparse
import resource
import selectors
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from service.cli.up.ports import free_port
from tests.api import client
from tests.bench.resident import peak_mb, resident_mb
from tests.conftest import process_environment
from tests.eventually import eventually
from tests.processes import Processes
from tests.servers import UNSYNCED, Databases, open_directory, running_postgres

MOST_MB = 250.0
CONNECTIONS = 6400
SECONDS = 20.0
AT_ONCE = 200
"""Connections that are opened between two looks at the others."""
ADDRESSES = 20
CALL = "POST /together/v1/chat/completions HTTP/1.1"
WAYS: dict[str, tuple[str, ...]] = {
    "calls without a body": (CALL, "Content-Length: 0"),
    "calls whose body does not come": (CALL, "Content-Length: 1000"),
    "calls that ask whether to send one": (CALL, "Content-Length: 1000", "Expect: 100-continue"),
    "lists": ("GET /v1/jobs HTTP/1.1",),
}
"""What is sent on each connection."""


@dataclass
class Crowd:
    """What became of a crowd."""

    peak: float
    bare: float
    slowest: float
    """The longest that another producer's call took meanwhile, in seconds."""
    refused: int
    """How many of its calls were refused or cut off."""
    answers: Counter[str]


def gather(way: tuple[str, ...], count: int, seconds: float) -> Crowd:
    """Keep so many connections open that send the same head, to an API that is fresh."""
    with open_api() as (url, pid, others):
        answer = others.post("/v1/producers", json={"name": "crowd"}).raise_for_status()
        bare = resident_mb(pid)
        head = [way[0], "Host: here", f"Authorization: Bearer {answer.json()['token']}", *way[1:]]
        other = _Other(others)
        with ExitStack() as stack:
            stack.callback(other.join)
            stack.callback(other.ending.set)
            other.start()
            sent = "\r\n".join((*head, "", "")).encode()
            crowd = stack.enter_context(_Connections(url, sent))
            crowd.keep(count, seconds)
        return Crowd(peak_mb(pid), bare, max(other.took), other.refused, crowd.answers)


class _Connections:
    """Connections that send the same head each, and are opened again when they end."""

    def __init__(self, url: str, sent: bytes) -> None:
        to = urlsplit(url)
        self._to = to.hostname, to.port
        self._sent = sent
        self._opened = 0
        self._ready = selectors.DefaultSelector()
        self.answers: Counter[str] = Counter()

    def __enter__(self) -> "_Connections":
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._ready.get_map().values()):
            self._end(key.fileobj)
        self._ready.close()

    def keep(self, count: int, seconds: float) -> None:
        """Keep so many open for a while, and read what is answered."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for _ in range(min(AT_ONCE, count - len(self._ready.get_map()))):
                self._open()
            for key, _ in self._ready.select(timeout=0.1):
                try:
                    self._go_on(key)
                except OSError as error:
                    self.answers[type(error).__name__] += 1
                    self._end(key.fileobj)

    def _open(self) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        # One address has neither so many ports nor so many places.
        self._opened += 1
        connection.bind((f"127.0.1.{1 + self._opened % ADDRESSES}", 0))
        connection.connect_ex(self._to)
        self._ready.register(connection, selectors.EVENT_WRITE)

    def _go_on(self, key: selectors.SelectorKey) -> None:
        assert isinstance(key.fileobj, socket.socket)
        if key.events == selectors.EVENT_WRITE:
            key.fileobj.send(self._sent)
            self._ready.modify(key.fileobj, selectors.EVENT_READ)
            return
        said = key.fileobj.recv(65536)
        if said.startswith(b"HTTP/1.1 "):
            self.answers[said.split(maxsplit=2)[1].decode()] += 1
        if not said:
            self._end(key.fileobj)

    def _end(self, connection: object) -> None:
        assert isinstance(connection, socket.socket)
        self._ready.unregister(connection)
        connection.close()


class _Other(threading.Thread):
    """Another producer, which asks for something small now and then."""

    def __init__(self, http: httpx.Client) -> None:
        super().__init__(name="other", daemon=True)
        self._http = http
        self.took = [0.0]
        self.refused = 0
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.wait(0.2):
            began = time.monotonic()
            try:
                self.refused += self._http.get("/v1/jobs?limit=1").is_error
            except httpx.TransportError:
                self.refused += 1
            self.took.append(time.monotonic() - began)


@contextmanager
def open_api() -> Iterator[tuple[str, int, httpx.Client]]:
    """An API as it ships, on a server of its own: its URL, its pid, and a client of the admin."""
    with ExitStack() as stack:
        home = stack.enter_context(open_directory("crowd"))
        for name in ("blobs", "logs"):
            (home / name).mkdir()
        postgres = stack.enter_context(running_postgres(home, UNSYNCED))
        environment = process_environment(
            Databases(postgres.url).create(), "", (home / "blobs").as_uri(), home
        )
        processes = Processes(home / "logs", environment)
        stack.callback(processes.kill)
        port = free_port()
        api = processes.haulier("api", "--port", str(port))
        http = stack.enter_context(client(f"http://127.0.0.1:{port}"))
        eventually(lambda: _ready(http), 60)
        yield f"http://127.0.0.1:{port}", api.pid, http


def _ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").is_success
    except httpx.TransportError:
        return False


def allow_open_files(connections: int) -> None:
    """Let this process, and those that it starts, have so many connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, connections + 1000), hard))


def main() -> int:
    """The command. 0 if the API stayed small."""
    parser = argparse.ArgumentParser(prog="crowd", description="Open very many connections.")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--way", choices=WAYS, action="append")
    arguments = parser.parse_args()
    allow_open_files(arguments.connections)
    broken = False
    for name in arguments.way or WAYS:
        crowd = gather(WAYS[name], arguments.connections, arguments.seconds)
        answers = ", ".join(f"{count} {what}" for what, count in sorted(crowd.answers.items()))
        print(
            f"{name}: {crowd.peak:.0f} MB, {crowd.bare:.0f} before; another's slowest call"
            f" {crowd.slowest:.2f} s, {crowd.refused} refused; {answers or 'nothing answered'}",
            flush=True,
        )
        broken = broken or crowd.peak > MOST_MB
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
