"""The applications below /together/v1 and /openai/v1."""

import re
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import structlog
from fastapi import APIRouter, FastAPI, Security
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.auth import authenticated
from service.api.dropin import calls, errors
from service.api.dropin.openai import batches as openai_batches
from service.api.dropin.openai import files as openai_files
from service.api.dropin.openai import models as openai_models
from service.api.dropin.openapi import document
from service.api.dropin.together import batches as together_batches
from service.api.dropin.together import files as together_files
from service.api.dropin.together import identity
from service.api.dropin.together import uploads as together_uploads
from service.api.gate import Gate
from service.api.openapi import operation_id
from service.api.problems import HttpProblem
from service.rules.errors import BadInput

TOGETHER = "/together"
OPENAI = "/openai/v1"


def mount(haulier: FastAPI) -> None:
    """Serve files and batches below `haulier` as Together's and OpenAI's APIs do.

    Each is an application of its own because its errors have another form. They share the services
    of `haulier`.
    """
    of_together = _application(
        haulier,
        "Files, batches and calls for Together's SDK",
        [
            together_uploads.router,
            together_files.router,
            together_batches.router,
            identity.router,
            calls.router,
        ],
        is_open=_is_upload,
    )
    of_together.include_router(together_uploads.open_router)
    # SDKs of 2.x and 3.x add /v1 to their base URL, even if it already ends with it. Their command
    # lines ask beside it, for /v3/whoami.
    for base in (f"{TOGETHER}/v1/v1", f"{TOGETHER}/v1", TOGETHER):
        haulier.router.routes.append(_Mount(base, of_together))

    of_openai = _application(
        haulier,
        "Files, batches and calls for OpenAI's SDK",
        [openai_files.router, openai_batches.router, openai_models.router, calls.router],
        is_open=lambda _scope: False,
    )
    of_openai.add_middleware(RequestIds)
    haulier.router.routes.append(_Mount(OPENAI, of_openai))


def lies_below(path: str) -> bool:
    """Whether a path is one of these applications', which have gates of their own."""
    return path.startswith((f"{TOGETHER}/", f"{OPENAI}/"))


def _application(
    haulier: FastAPI,
    title: str,
    routers: Sequence[APIRouter],
    is_open: Callable[[Scope], bool],
) -> FastAPI:
    app = FastAPI(
        title=title,
        version=haulier.version,
        generate_unique_id_function=operation_id,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            HttpProblem: errors.on_problem,
            BadInput: errors.on_bad_input,
            HTTPException: errors.on_http_exception,
            RequestValidationError: errors.on_bad_parameters,
            Exception: errors.on_unforeseen,
        },
    )
    app.state = haulier.state
    app.add_middleware(Gate, is_open=is_open, told=errors.told)
    for router in routers:
        app.include_router(router, dependencies=[Security(authenticated)])

    @app.get("/openapi.json", include_in_schema=False)
    async def show_openapi() -> dict[str, Any]:
        return document(app)

    return app


class _Mount(Mount):
    """All that lies below a path, also with a line end in it: no other gate looks at that."""

    def __init__(self, path: str, app: ASGIApp) -> None:
        super().__init__(path, app)
        self.path_regex = re.compile(self.path_regex.pattern, re.DOTALL)


_UPLOAD = re.compile(r"/files/[^/]+/bytes")


def _is_upload(scope: Scope) -> bool:
    """Whether a file's bytes are sent. They carry no token: their URL holds a secret instead."""
    path = scope["path"].removeprefix(scope["root_path"])
    return scope["method"] == "PUT" and _UPLOAD.fullmatch(path) is not None


class RequestIds:
    """ASGI middleware: every answer has an `x-request-id`, which the log names too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = f"req_{uuid4().hex}"
        structlog.contextvars.bind_contextvars(request=request_id)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, named)
