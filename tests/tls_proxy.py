"""A proxy that ends TLS, as one stands in front of the API."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

OF_ONE_HOP = frozenset({"connection", "content-length", "host", "transfer-encoding"})


@dataclass(frozen=True)
class TlsProxy:
    """`trust` is for its clients."""

    url: str
    trust: ssl.SSLContext


@contextmanager
def tls_proxy(target: str, directory: Path, *, prefix: str = "") -> Iterator[TlsProxy]:
    """Pass on what comes to `https://…<prefix>/` to `target`, which gets to see its own host."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Log nothing."""

        def _pass_on(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            kept = [(k, v) for k, v in self.headers.items() if k.lower() not in OF_ONE_HOP]
            claimed = self.headers.get("X-Forwarded-For")
            addresses = [claimed] if claimed else []
            answer = httpx.request(
                self.command,
                target + self.path.removeprefix(prefix),
                content=content,
                headers=[
                    *((k, v) for k, v in kept if k.lower() != "x-forwarded-for"),
                    ("X-Forwarded-For", ", ".join([*addresses, self.client_address[0]])),
                    ("X-Forwarded-Host", self.headers["Host"]),
                    ("X-Forwarded-Proto", "https"),
                ],
                trust_env=False,
            )
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name not in OF_ONE_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PUT = do_DELETE = _pass_on  # noqa: N815

    certificate = directory / "proxy.pem"
    certificate.write_bytes(self_signed())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        trust = ssl.create_default_context(cafile=certificate)
        yield TlsProxy(f"https://127.0.0.1:{server.server_address[1]}{prefix}", trust)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def self_signed() -> bytes:
    """A key and a certificate for 127.0.0.1, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a proxy of tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
