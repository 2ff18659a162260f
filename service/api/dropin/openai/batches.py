"""Batches for OpenAI's SDK: make one of a file, list, look, cancel."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from starlette.requests import Request

from service.api.acting import ActedBy
from service.api.auth import CANCEL, READ, SUBMIT, CalledBy
from service.api.dropin import batches
from service.api.dropin.batches import VisibleBatch
from service.api.dropin.errors import refused
from service.api.dropin.openai.wire import WINDOW, batch_object, page
from service.api.dropin.openapi import json_body
from service.api.problems import HttpProblem
from service.api.services import Uses
from service.store import files as store

MOST_LISTED = 100

router = APIRouter()


class NewBatch(msgspec.Struct, frozen=True):
    """The body of a create."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: dict[str, Any] | None = None


@router.post("/batches", dependencies=[SUBMIT], openapi_extra=json_body(NewBatch))
async def create_batch(request: Request, services: Uses, caller: CalledBy) -> dict[str, Any]:
    """Make a job of an uploaded file. Its lines are looked at later: bad ones let it fail."""
    arrived_at = await batches.now(services)
    asked = await batches.asked(request, NewBatch)
    if asked.completion_window != WINDOW:
        raise refused(f"completion_window: only {WINDOW!r} is known", param="completion_window")
    if asked.output_expires_after is not None:
        raise refused(
            "output_expires_after: is not served here; results are kept for as long as their job",
            param="output_expires_after",
        )
    job, _ = await batches.create(
        request,
        services,
        caller,
        file_id=asked.input_file_id,
        arrived_at=arrived_at,
        endpoint=asked.endpoint,
        metadata=asked.metadata or {},
    )
    return batch_object(job)


@router.get("/batches", dependencies=[READ])
def list_batches(
    services: Uses,
    caller: CalledBy,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 20,
) -> dict[str, Any]:
    """The caller's batches, newest first."""
    try:
        last = None if after is None else batches.visible_batch(after, services, caller)
    except HttpProblem:
        raise refused("after: is not the id of a batch of yours", param="after") from None
    found = store.jobs_of_files(services.db, caller.producer, limit=limit + 1, after=last)
    return page([batch_object(job) for job in found[:limit]], has_more=len(found) > limit)


@router.get("/batches/{batch_id}", dependencies=[READ])
def show_batch(job: VisibleBatch) -> dict[str, Any]:
    return batch_object(job)


@router.post("/batches/{batch_id}/cancel", dependencies=[CANCEL])
def cancel_batch(
    job: VisibleBatch, services: Uses, caller: CalledBy, by: ActedBy
) -> dict[str, Any]:
    """Ask for a batch to be cancelled. What is done by then is in its files."""
    return batch_object(batches.cancelled(job, services, caller, by))
