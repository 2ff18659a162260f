"""The application below /together/v1."""

import re

from fastapi import FastAPI, Security
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from service.api.auth import authenticated
from service.api.dropin import batches, errors, files, uploads
from service.api.gate import Gate
from service.api.problems import HttpProblem
from service.rules.errors import BadInput


def dropin_app(haulier: FastAPI) -> FastAPI:
    """Return the application that answers as Together's API does.

    It is separate because its errors have Together's form. It shares the services of `haulier`.
    Together documents these endpoints, so our OpenAPI document leaves them out.
    """
    app = FastAPI(
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
    app.add_middleware(Gate, is_open=_is_upload, told=errors.told)
    app.include_router(uploads.open_router)
    for part in (uploads, files, batches):
        app.include_router(part.router, dependencies=[Security(authenticated)])
    return app


_UPLOAD = re.compile(r"/files/[^/]+/bytes")


def _is_upload(scope: Scope) -> bool:
    """Whether a file's bytes are sent. They carry no token: their URL holds a secret instead."""
    path = scope["path"].removeprefix(scope["root_path"])
    return scope["method"] == "PUT" and _UPLOAD.fullmatch(path) is not None
