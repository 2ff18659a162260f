"""The application below /together/v1."""

from fastapi import FastAPI, Security
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service.api.auth import authenticated
from service.api.dropin import batches, errors, files, uploads
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
    # An upload carries no token: its URL holds a secret instead.
    app.include_router(uploads.open_router)
    for part in (uploads, files, batches):
        app.include_router(part.router, dependencies=[Security(authenticated)])
    return app
