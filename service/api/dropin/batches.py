"""Batches: each is a job, and has its id."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any
from uuid import UUID, uuid4

import anyio.to_thread
import msgspec
import structlog
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api import body
from service.api.acting import ActedBy, operator_of
from service.api.auth import CANCEL, READ, SUBMIT, CalledBy, Caller
from service.api.dropin.errors import not_found, refused
from service.api.dropin.wire import batch_object, input_file_id
from service.api.problems import (
    ALREADY_ENDED,
    BROKEN_BODY,
    HttpProblem,
    not_stored,
    over_quota,
)
from service.api.services import Services, Uses
from service.payloads.inputs import uploaded
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import BadInput, Conflict, OverQuota
from service.rules.spec import Spec, envelope_problems
from service.rules.states import JobState
from service.store import files as store
from service.store import jobs
from service.store.cancel import cancel
from service.store.engine import clock
from service.store.models import Job
from service.store.submit import Submission

log = structlog.get_logger()

MOST_LISTED = 1000
"""Batches; the SDK's list has no pages."""
MOST_BYTES = 65_536

RETRY_DELAY = 60.0
"""The most seconds that the SDK waits before it tries again: what it takes of a Retry-After."""
READ_TIMEOUT = 600.0
"""Seconds that a try is thought to last where the caller does not say."""
MOST_RETRIES = 20

router = APIRouter()


class NewBatch(msgspec.Struct, frozen=True):
    """The body of a create. There is no window to be kept; each line names its model."""

    input_file_id: str
    endpoint: str
    completion_window: str | None = None
    model_id: str | None = None
    priority: int | None = None


@router.post("/batches", dependencies=[SUBMIT])
async def create_batch(request: Request, services: Uses, caller: CalledBy) -> Response:
    """Make a job of an uploaded file. Its lines are looked at later: bad ones let it FAIL."""
    arrived_at = await anyio.to_thread.run_sync(clock, services.db)
    asked = _asked(await body.at_most(request, MOST_BYTES))
    spec = _spec(asked, request.headers.get("idempotency-key"), caller)
    since = arrived_at - _tried_for(request.headers)
    if await request.is_disconnected():
        # It may well have come again by now; nobody would know of what is bought here.
        raise HttpProblem(BROKEN_BODY, "the client went away before it was answered")
    job, size, new = await anyio.to_thread.run_sync(
        partial(_create, services, caller, asked.input_file_id, spec, since),
        limiter=services.intake,
    )
    structlog.contextvars.bind_contextvars(job=str(job.id))
    log.info("submission_accepted" if new else "submission_known", file=asked.input_file_id)
    return JSONResponse({"job": batch_object(job, size)}, status_code=201)


def _asked(data: bytearray) -> NewBatch:
    try:
        return msgspec.json.decode(data[: MOST_BYTES + 1], type=NewBatch)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refused(f"the body is not valid: {error}") from None


def _spec(asked: NewBatch, key: str | None, caller: Caller) -> Spec:
    """The spec that the batch stands for, without its input. Raises HttpProblem, BadInput."""
    allowed = sorted(caller.permissions.accounts)
    account = allowed[0] if allowed and "default" not in allowed else "default"
    fields = {"endpoint": asked.endpoint, "account": account, "priority": asked.priority or 0}
    try:
        spec = msgspec.convert(fields | ({"idempotency_key": key} if key else {}), Spec)
    except msgspec.ValidationError as error:
        raise refused(str(error)) from None
    if problems := envelope_problems(spec, caller.permissions):
        raise BadInput(problems)
    return spec


def _tried_for(headers: Mapping[str, str]) -> timedelta:
    """For how long the SDK may have been trying, by what it says of itself.

    The answer to an earlier try may have been lost, but not the batch that it made. Raises
    HttpProblem.
    """
    try:
        retries = min(int(headers.get("x-stainless-retry-count", 0)), MOST_RETRIES)
        timeout = float(headers.get("x-stainless-read-timeout", READ_TIMEOUT))
    except ValueError:
        return timedelta(0)
    if retries < 0 or not timeout >= 0:  # which no number is, either
        raise refused("x-stainless-retry-count and x-stainless-read-timeout are not below 0")
    # To send it may take as long as to wait for the answer.
    return timedelta(seconds=retries * (2 * min(timeout, 3600.0) + RETRY_DELAY))


def _create(
    services: Services, caller: Caller, file_id: str, spec: Spec, since: datetime
) -> tuple[Job, int | None, bool]:
    file = store.file(services.db, file_id, caller.producer)
    if file is None or file.blob is None:
        raise not_found(f"file {file_id}")
    spec = msgspec.structs.replace(spec, input=uploaded(file.blob))
    submission = Submission(id=uuid4(), producer=caller.producer, spec=spec)
    try:
        stored = store.submit_once(services.db, file_id, submission, since=since)
    except Conflict as error:
        raise not_stored(error) from None
    except OverQuota as error:
        raise over_quota(error) from None
    if stored is None:
        raise not_found(f"file {file_id}")  # deleted meanwhile
    reached(CrashPoint.ACCEPT_STORED)
    job = jobs.job(services.db, stored.id, caller.producer)
    assert job is not None
    return job, file.bytes, stored.new


def visible_batch(batch_id: str, services: Uses, caller: CalledBy) -> Job:
    """The job in the path, if it is the caller's and was made of a file. Raises HttpProblem."""
    try:
        job = jobs.job(services.db, UUID(batch_id), caller.producer)
    except ValueError:
        job = None
    if job is None or input_file_id(job) is None:
        raise not_found("job")
    return job


VisibleBatch = Annotated[Job, Depends(visible_batch)]


@router.get("/batches", dependencies=[READ])
def list_batches(services: Uses, caller: CalledBy) -> list[dict[str, Any]]:
    """The caller's batches, newest first."""
    found = store.jobs_of_files(services.db, caller.producer, limit=MOST_LISTED)
    return _shown(found, services, caller)


@router.get("/batches/{batch_id}", dependencies=[READ])
def show_batch(job: VisibleBatch, services: Uses, caller: CalledBy) -> dict[str, Any]:
    return _shown([job], services, caller)[0]


@router.post("/batches/{batch_id}/cancel", dependencies=[CANCEL])
def cancel_batch(
    job: VisibleBatch, services: Uses, caller: CalledBy, by: ActedBy
) -> dict[str, Any]:
    """Ask for a batch to be cancelled. What is done by then is in its files."""
    if job.state is JobState.CANCELLED:
        raise HttpProblem(ALREADY_ENDED, "the job is cancelled already")
    try:
        cancel(services.db, job.id, operator=operator_of(job, caller, by))
    except Conflict as error:
        raise HttpProblem(ALREADY_ENDED, str(error)) from None
    return _shown([visible_batch(str(job.id), services, caller)], services, caller)[0]


def _shown(found: list[Job], services: Services, caller: Caller) -> list[dict[str, Any]]:
    made = [(job, file_id) for job in found if (file_id := input_file_id(job)) is not None]
    sizes = store.sizes(services.db, caller.producer, {file_id for _, file_id in made})
    return [batch_object(job, sizes.get(file_id)) for job, file_id in made]
