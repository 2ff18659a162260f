"""The application: its routers, its services, and how it answers errors."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import structlog
from anyio import CapacityLimiter, create_task_group, to_thread
from fastapi import APIRouter, FastAPI, Security
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Lifespan, Scope

from config import VERSION
from config.settings import Settings, SettingsError
from config.values import Network
from service.api import health, problems
from service.api.access_log import AccessLog
from service.api.auth import Authenticator, authenticated
from service.api.calls.desk import Desk
from service.api.console import app as console
from service.api.dropin import app as dropin
from service.api.failures import Failures
from service.api.forwarded import Forwarded
from service.api.gate import Gate
from service.api.gathering import Gathering
from service.api.memory import Memory
from service.api.metrics import Metrics, Pools
from service.api.openapi import document, operation_id
from service.api.services import Services
from service.api.streams import DOWNLOADS, DOWNLOADS_SHARE, Streams
from service.api.turns import Turns
from service.api.v1 import (
    auditing,
    causes,
    deliveries,
    jobs,
    lanes,
    operating,
    overviews,
    processes,
    producers,
    progress,
    requests,
    results,
    retrying,
    submitting,
    tokens,
    usage,
)
from service.payloads.blobs import STORAGE_ERRORS, Blobs
from service.rules.errors import BadInput
from service.rules.measures import STARTS
from service.store import engine
from service.upkeep.measuring import Storing

log = structlog.get_logger()

CONNECTIONS = 10
INTAKES = 8
"""The most request bodies that are processed at the same time."""
LOOKUPS = 4


def create_app(settings: Settings) -> FastAPI:
    """Return the API with its database and blob storage. Raises SettingsError."""
    settings.required("database_url", "admin_token")
    if settings.admin_token is None or not settings.admin_token.get_secret_value().strip():
        raise SettingsError("HAULIER_ADMIN_TOKEN: is empty; set it to a long random string")
    connections = engine.create(settings.database_url or "", pool_size=CONNECTIONS)
    blobs = _blobs(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        db = engine.database(connections)
        taking_turns = Turns()
        authenticator = Authenticator(settings, db)
        desk = Desk(db, blobs, most=settings.max_calls, share=settings.max_calls_per_producer)
        intake, lookups = CapacityLimiter(INTAKES), CapacityLimiter(LOOKUPS)
        memory = Memory()
        storing = Storing(lambda: db)
        STARTS.count("api")
        storing.start()
        app.state.services = Services(
            settings=settings,
            db=db,
            blobs=blobs,
            authenticator=authenticator,
            failures=Failures(settings.failed_logins_per_minute),
            memory=memory,
            turns=taking_turns,
            intake=intake,
            lookups=lookups,
            gathering=Gathering(db, blobs, settings, taking_turns),
            metrics=Metrics(
                db,
                lambda: desk.count,
                lambda: Pools(
                    database=engine.connections_used(connections),
                    threads={"intake": intake.borrowed_tokens, "lookups": lookups.borrowed_tokens},
                    body_bytes=memory.held,
                ),
            ),
            streams=Streams(),
            downloads=Streams(DOWNLOADS, DOWNLOADS_SHARE),
            desk=desk,
        )
        async with create_task_group() as beginning:
            beginning.start_soon(to_thread.run_sync, _remember, authenticator)
            yield
        await desk.close()
        await to_thread.run_sync(storing.stop)
        connections.dispose()

    return application(
        lifespan, trusted_proxies=settings.trusted_proxies, with_console=settings.console
    )


def _remember(authenticator: Authenticator) -> None:
    try:
        authenticator.remember()
    except Exception as error:  # noqa: BLE001  the API starts without Postgres, too
        log.info("tokens_not_known_yet", reason=engine.first_line(error))


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = document(self)
        return self.openapi_schema


def application(
    lifespan: Lifespan[FastAPI] | None = None,
    *,
    trusted_proxies: Collection[Network] = (),
    with_console: bool = True,
) -> FastAPI:
    """Return the application with all its routes.

    Without a lifespan it has no services, which is enough for the OpenAPI document.
    """
    app = _Application(
        title="Haulier",
        summary="A durable job queue for batch inference on Together AI.",
        version=VERSION,
        lifespan=lifespan,
        generate_unique_id_function=operation_id,
        redirect_slashes=False,
        # `_closed` serves the document, to callers with a token. FastAPI's pages for it are off:
        # they load scripts from other hosts.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        exception_handlers={
            problems.HttpProblem: problems.on_problem,
            BadInput: problems.on_bad_input,
            HTTPException: problems.on_http_exception,
            RequestValidationError: problems.on_bad_parameters,
        },
    )
    app.include_router(_closed())
    app.include_router(health.router)
    dropin.mount(app)
    if with_console:
        console.mount(app)
    # The last one is the first to see a request.
    is_open = _is_open_with_console if with_console else _is_open
    app.add_middleware(Gate, is_open=is_open, told=problems.HttpProblem.response)
    app.add_middleware(AccessLog)
    app.add_middleware(Forwarded, trusted=trusted_proxies)
    return app


def _is_open(scope: Scope) -> bool:
    return scope["path"] in health.OPEN_PATHS or dropin.lies_below(scope["path"])


def _is_open_with_console(scope: Scope) -> bool:
    return _is_open(scope) or console.is_open(scope)


def _closed() -> APIRouter:
    """Return the routes below /v1. All of them need a token."""
    v1 = APIRouter(prefix="/v1", dependencies=[Security(authenticated)])
    for part in (
        submitting,
        jobs,
        results,
        retrying,
        operating,
        processes,
        overviews,
        lanes,
        producers,
        tokens,
        usage,
        requests,
        progress,
        deliveries,
        auditing,
        causes,
    ):
        v1.include_router(part.router)

    @v1.get("/openapi.json", include_in_schema=False)
    async def show_openapi(request: Request) -> dict[str, Any]:
        app = request.app
        assert isinstance(app, FastAPI)
        return app.openapi()

    return v1


def _blobs(settings: Settings) -> Blobs:
    try:
        return Blobs(settings.blobs)
    except (OSError, ValueError, *STORAGE_ERRORS) as error:
        raise SettingsError(f"HAULIER_BLOB_URL: {settings.blobs} cannot be used: {error}") from None
