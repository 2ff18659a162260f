"""Batches: make one of a file, list, look, cancel."""

from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.acting import ActedBy
from service.api.auth import CANCEL, READ, SUBMIT, CalledBy, Caller
from service.api.dropin import batches
from service.api.dropin.batches import VisibleBatch
from service.api.dropin.ids import input_file_id
from service.api.dropin.openapi import json_body
from service.api.dropin.together.wire import batch_object
from service.api.services import Services, Uses
from service.store import files as store
from service.store.models import Job

MOST_LISTED = 1000
"""Batches; the SDK's list has no pages."""

router = APIRouter()


class NewBatch(msgspec.Struct, frozen=True):
    """The body of a create. There is no window to be kept; each line names its model."""

    input_file_id: str
    endpoint: str
    completion_window: str | None = None
    model_id: str | None = None
    priority: int | None = None


@router.post(
    "/batches",
    dependencies=[SUBMIT],
    status_code=201,
    openapi_extra=json_body(NewBatch),
)
async def create_batch(request: Request, services: Uses, caller: CalledBy) -> Response:
    """Make a job of an uploaded file. Its lines are looked at later: bad ones let it FAIL."""
    arrived_at = await batches.now(services)
    asked = await batches.asked(request, NewBatch)
    job, size = await batches.create(
        request,
        services,
        caller,
        file_id=asked.input_file_id,
        arrived_at=arrived_at,
        endpoint=asked.endpoint,
        priority=asked.priority or 0,
    )
    return JSONResponse({"job": batch_object(job, size)}, status_code=201)


@router.get("/batches", dependencies=[READ])
def list_batches(request: Request, services: Uses, caller: CalledBy) -> list[dict[str, Any]]:
    """The caller's batches, newest first."""
    found = store.jobs_of_files(services.db, caller.producer, limit=MOST_LISTED)
    return _shown(request, found, services, caller)


@router.get("/batches/{batch_id}", dependencies=[READ])
def show_batch(
    request: Request, job: VisibleBatch, services: Uses, caller: CalledBy
) -> dict[str, Any]:
    return _shown(request, [job], services, caller)[0]


@router.post("/batches/{batch_id}/cancel", dependencies=[CANCEL])
def cancel_batch(
    request: Request, job: VisibleBatch, services: Uses, caller: CalledBy, by: ActedBy
) -> dict[str, Any]:
    """Ask for a batch to be cancelled. What is done by then is in its files."""
    return _shown(request, [batches.cancelled(job, services, caller, by)], services, caller)[0]


def _shown(
    request: Request, found: list[Job], services: Services, caller: Caller
) -> list[dict[str, Any]]:
    made = [(job, file_id) for job in found if (file_id := input_file_id(job)) is not None]
    sizes = store.sizes(services.db, caller.producer, {file_id for _, file_id in made})
    agent = request.headers.get("user-agent", "")
    return [batch_object(job, sizes.get(file_id), agent) for job, file_id in made]
