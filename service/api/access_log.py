"""One line for each request, and an answer for each error that nobody expected."""

import contextlib
import time
from uuid import UUID

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.health import OPEN_PATHS
from service.api.problems import HttpProblem, unforeseen

log = structlog.get_logger()


class AccessLog:
    """ASGI middleware. Never logs a query string or a body: they hold producers' data."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(client=scope["client"][0] if scope["client"] else "")
        started = scope.get("state", {}).get("arrived") or time.perf_counter()
        status: int | None = None

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:  # noqa: BLE001  logged with its traceback, and answered
            answer = unforeseen(error)
            _log_failure(error, answer.kind.status)
            if status is None:
                await answer.response()(scope, receive, noting)
            # Else the answer was under way: the connection is cut here, and the client sees it.
        finally:
            _log_request(scope, status, time.perf_counter() - started)


def _log_failure(error: Exception, status: int) -> None:
    if status == 500:
        log.error("request_failed", exc_info=error)
    else:
        log.warning("request_failed", reason=(str(error).splitlines() or [repr(error)])[0])


def _log_request(scope: Scope, status: int | None, seconds: float) -> None:
    refused = scope.get("state", {}).get("refused")
    if isinstance(refused, HttpProblem):
        status = refused.kind.status  # what service.api.protocol answered in our place
    fields = {
        "method": scope["method"],
        "path": scope["raw_path"].decode("ascii", "replace"),  # escaped, as it came
        "status": status,
        "ms": round(seconds * 1000, 1),
    }
    with contextlib.suppress(KeyError, ValueError):
        fields["job"] = str(UUID(scope["path_params"]["job_id"]))
    # Whoever asks for a process's health asks all day long.
    if scope["path"] in OPEN_PATHS:
        log.debug("request_answered", **fields)
    else:
        log.info("request_answered", **fields)
