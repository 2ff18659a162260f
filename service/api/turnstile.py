"""Before all else: a call whose producer is known waits here for its first turn.

Thousands may wait at once. Here one weighs its connection and little more; behind the application's
layers it would weigh several times as much.
"""

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.gate import token_of
from service.api.health import OPEN_PATHS
from service.api.services import Services
from service.api.turns import within


class Turnstile:
    """ASGI middleware, the first to see a request.

    Of strangers few may wait: they have their turns from the gate (service.api.gate), which counts
    them.
    """

    def __init__(self, app: ASGIApp, services: Callable[[], Services]) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        producer = self._producer(scope)
        if not producer:
            await self._app(scope, receive, send)
            return
        scope["state"]["arrived"] = time.perf_counter()  # for the access log
        turn = self._services().turns.turn(producer)
        with within(turn):
            await turn.take()
            await self._app(scope, receive, send)

    def _producer(self, scope: Scope) -> str:
        """Whose the call seems to be; "" where that is not known, or where it needs no turn."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return ""
        token = token_of(scope)
        return self._services().authenticator.expected(token) if token else ""
