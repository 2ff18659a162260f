"""The application below /together/v1."""

from fastapi import FastAPI, Security
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service.api.auth import authenticated
from service.api.dropin import batches, errors, files, uploads
from service.api.problems import HttpProblem
from service.rules.errors import BadInput


def together_app(haulier: FastAPI) -> FastAPI:
    """An application of its own, since its errors have a form of their own.

    It shares the services. Its document is Together's, so that it is in no OpenAPI document here.
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
    # The bytes of a file come without a token: the URL that the SDK was sent to holds a secret.
    app.include_router(uploads.open_router)
    for part in (uploads, files, batches):
        app.include_router(part.router, dependencies=[Security(authenticated)])
    return app
