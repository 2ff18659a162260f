"""A Together that says odd things: it stands before the simulator and changes its answers."""

import http.client
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tests.faults.fuzz_inputs import Mutator

ODD = 0.3
"""The share of answers that are changed."""
STATUSES = (200, 201, 204, 302, 400, 401, 404, 409, 422, 429, 500, 503)
OWN = {"connection", "content-length", "transfer-encoding", "host"}


@contextmanager
def odd_provider(upstream: str, seed: int) -> Iterator[str]:
    """Yield the URL of a server that hands calls on and changes some of the answers."""
    to = urlsplit(upstream)
    mutator = Mutator(random.Random(f"provider {seed}"))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            with suppress(OSError, http.client.HTTPException):
                self._answer()

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815  the library's names

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            sent = {name: value for name, value in self.headers.items() if name.lower() not in OWN}
            calling = http.client.HTTPConnection(to.hostname or "", to.port, timeout=60)
            try:
                calling.request(self.command, self.path, body, sent)
                found = calling.getresponse()
                status, headers, data = found.status, found.getheaders(), found.read()
            finally:
                calling.close()
            if mutator.maybe(ODD):
                status, data = _changed(mutator, status, data)
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in OWN:
                    # The bytes of a file go to this server as well.
                    here = value.replace(f":{to.port}", f":{server.server_port}")
                    self.send_header(name, here)
            self.send_header("Content-Length", str(0 if status == 204 else len(data)))
            self.end_headers()
            if status != 204:
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 100

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


def _changed(mutator: Mutator, status: int, data: bytes) -> tuple[int, bytes]:
    """Another status, or another body: JSON with odd places in it, or other bytes."""
    if mutator.maybe(0.2):
        return mutator.one_of(STATUSES), data
    try:
        return status, mutator.json(msgspec.json.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # lines, or nothing
    lines = data.splitlines(keepends=True)
    if not lines:
        return status, data
    at = mutator.one_of(range(len(lines)))
    lines[at] = mutator.bytes(lines[at])
    return status, b"".join(lines)
