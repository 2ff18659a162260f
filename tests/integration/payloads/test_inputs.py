"""An `input` on S3: what is read is what was checked."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from service.payloads.inputs import open_input


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """An S3 that has everything; the keys it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "7")
            self.send_header("ETag", '"x"')
            self.send_header("Last-Modified", "Sun, 22 Nov 2026 12:00:00 GMT")
            self.end_headers()
            self.wfile.write(b"content")

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name, value in {
        "AWS_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
    }.items():
        monkeypatch.setenv(name, value)
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("s3://bucket/in/a.jsonl", "/bucket/in/a.jsonl"),
        ("s3://bucket/in/deep/a%20b.jsonl", "/bucket/in/deep/a%20b.jsonl"),
        ("s3://bucket/in/x/../a.jsonl", "/bucket/in/a.jsonl"),
        ("s3://bucket/in/a%3Fb%23c.jsonl", "/bucket/in/a%3Fb%23c.jsonl"),
        # Decoded twice, this would lead out of the root.
        ("s3://bucket/in/%252e%252e/secret", "/bucket/in/%252e%252e/secret"),
    ],
)
def test_the_key_that_was_checked_is_read(bucket: list[str], url: str, key: str) -> None:
    assert b"".join(open_input(url, ("s3://bucket/in",))) == b"content"
    assert bucket == [key]
