"""What proxies in front say of a request: who sent it, and to which URL."""

import re
from collections.abc import Collection

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from config.settings import Settings
from config.values import Network
from service.api.connections import lies_in

_HOST = re.compile(rb"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")


class Forwarded:
    """ASGI middleware: believes the `X-Forwarded-…` headers of trusted proxies alone."""

    def __init__(self, app: ASGIApp, trusted: Collection[Network]) -> None:
        self._app = app
        self._trusted = trusted
        # For `X-Forwarded-For` and `-Proto`; the client is the last address that is no proxy's.
        self._believing = ProxyHeadersMiddleware(app, [str(network) for network in trusted])  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if scope["type"] != "http" or client is None or not lies_in(client[0], self._trusted):
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["by_trusted_proxy"] = True
        said = dict(scope["headers"]).get(b"x-forwarded-host", b"")
        host = said.partition(b",")[0].strip()
        if _HOST.fullmatch(host):
            others = [field for field in scope["headers"] if field[0] != b"host"]
            scope["headers"] = [(b"host", host), *others]
        await self._believing(scope, receive, send)  # type: ignore[arg-type]


def public_url(request: Request, settings: Settings, path: str) -> str:
    """The URL of a path as the client has to call it."""
    if settings.public_url is not None:
        return settings.public_url + path
    return str(request.url.replace(path=path, query=""))
