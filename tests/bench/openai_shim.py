"""OpenAI's variant of the batch API in front of the simulator, for tools that speak only that.

It differs in three places: uploads go straight to `/v1/files`, a create answers with the bare
batch, and statuses are in lower case. Bodies pass as they are.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import msgspec


@contextmanager
def openai_shim(together: str) -> Iterator[str]:
    """The base URL for a client of OpenAI's. Runs in a thread until the block is left."""
    with httpx.Client(base_url=together, timeout=300, verify=False) as simulator:
        handler = type("Handler", (_Handler,), {"simulator": simulator})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    simulator: httpx.Client
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        path = "/v1/files/upload" if self.path == "/v1/files" else self.path
        self._pass_on("POST", path, self.rfile.read(int(self.headers["Content-Length"])))

    def do_GET(self) -> None:
        self._pass_on("GET", self.path, None)

    def log_message(self, format: str, *values: Any) -> None:  # noqa: A002 - the base's name
        """Stay silent."""

    def _pass_on(self, method: str, path: str, body: bytes | None) -> None:
        kept = ("Authorization", "Content-Type")
        headers = {name: self.headers[name] for name in kept if name in self.headers}
        answer = self.simulator.request(method, path, content=body, headers=headers)
        content = answer.content
        if path.startswith("/v1/batches") and answer.is_success:
            content = _as_openai_shows(content)
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _as_openai_shows(content: bytes) -> bytes:
    answer = msgspec.json.decode(content)
    batch = answer.get("job", answer)
    return msgspec.json.encode({**batch, "status": batch["status"].lower(), "object": "batch"})
