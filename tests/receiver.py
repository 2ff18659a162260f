"""A producer's webhook endpoint in tests: a real HTTP server in threads of this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from standardwebhooks import Webhook


@dataclass(frozen=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, secret: str) -> dict[str, Any]:
        """What it says, once its signature is found to be right."""
        content = Webhook(secret).verify(self.body, self.headers)
        assert isinstance(content, dict)
        return content


@dataclass
class Receiver:
    """Answers with `status` and `more`; while `silent`, it takes calls and answers nothing."""

    url: str
    status: int = 204
    more: dict[str, str] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    silent: bool = False
    released: threading.Event = field(default_factory=threading.Event)
    most_at_once: int = 0
    at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def release(self) -> None:
        """Answer what waits, and what comes from here on."""
        self.silent = False
        self.released.set()

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.received]

    @property
    def events(self) -> list[str]:
        return [msgspec.json.decode(one.body)["event"] for one in self.received]


@contextmanager
def receiving(**fields: Any) -> Iterator[Receiver]:
    """A receiver on a free port of 127.0.0.1."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            names = {name.lower(): value for name, value in self.headers.items()}
            with receiver.lock:
                receiver.at_once += 1
                receiver.most_at_once = max(receiver.most_at_once, receiver.at_once)
                receiver.received.append(Received(self.path, names, body))
            if receiver.silent:
                receiver.released.wait(60)
            with receiver.lock:
                receiver.at_once -= 1
            self.send_response(receiver.status)
            for name, value in {"content-length": "0", **receiver.more}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(ConnectionError):  # whoever called may have gone
                super().handle()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}/hook", **fields)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.release()
        server.shutdown()
        thread.join()
        server.server_close()
