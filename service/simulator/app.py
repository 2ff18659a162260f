"""The simulator as an ASGI application: which path is which operation."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.simulator import batches, control, files, identity, objects, wire
from service.simulator.operations import Handler, OperationApp, Targets, path_targets
from service.simulator.scenario import Operation
from service.simulator.simulation import Simulation


def application(simulation: Simulation) -> Starlette:
    """Build the application around a simulation; it starts and stops with the server."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        simulation.engine.resume()
        yield
        await simulation.close()

    return Starlette(
        routes=[*_operations(simulation), *control.routes(simulation)],
        lifespan=lifespan,
        exception_handlers={404: _unknown_path},
    )


def _operations(simulation: Simulation) -> list[Route]:
    def route(
        method: str,
        path: str,
        operation: Operation,
        handler: Handler,
        *,
        targets: Targets = path_targets,
        keyless: bool = False,
    ) -> Route:
        endpoint = OperationApp(simulation, operation, handler, targets=targets, keyless=keyless)
        return Route(path, endpoint, methods=[method])

    file, store, batch = "/v1/files/{file_id}", objects.PREFIX, "/v1/batches/{batch_id}"
    return [
        route("POST", "/v1/files", "create_file", files.create_file, targets=files.form_targets),
        route("POST", "/v1/files/upload", "upload", files.upload),
        route("GET", "/v1/files", "files", files.list_all),
        route("GET", file, "file", files.retrieve),
        route("DELETE", file, "delete", files.delete),
        route("POST", f"{file}/preprocess", "preprocess", files.preprocess),
        route("GET", f"{file}/content", "content", files.content),
        route("PUT", f"{store}/{{file_id}}", "put", objects.put, keyless=True),
        route("GET", f"{store}/{{file_id}}", "object", objects.get, keyless=True),
        route("POST", "/v1/batches", "create", batches.create, targets=batches.create_targets),
        route("GET", "/v1/batches", "list", batches.list_all),
        route("GET", batch, "retrieve", batches.retrieve),
        route("POST", f"{batch}/cancel", "cancel", batches.cancel),
        route("GET", "/v3/whoami", "whoami", identity.whoami),
    ]


async def _unknown_path(request: Request, _error: Exception) -> Response:
    return wire.object_error(404, f"Unknown path: {request.url.path}")
