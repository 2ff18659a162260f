"""Batches, whoever's words are spoken: each is a job, and has its id."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any, TypeVar
from uuid import UUID, uuid4

import anyio.to_thread
import msgspec
import structlog
from fastapi import Depends
from starlette.requests import Request

from service.api import body
from service.api.acting import operator_of
from service.api.auth import CalledBy, Caller
from service.api.dropin.errors import not_found, refused
from service.api.dropin.ids import input_file_id
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
from service.store.audit import Actor
from service.store.cancel import cancel
from service.store.engine import clock
from service.store.models import Job
from service.store.submit import Submission

log = structlog.get_logger()

MOST_BYTES = 65_536
"""Of the body of a create."""

RETRY_DELAY = 60.0
"""The most seconds that an SDK waits before it tries again: what it takes of a Retry-After."""
READ_TIMEOUT = 600.0
"""Seconds that a try is thought to last where the caller does not say."""
MOST_RETRIES = 20

T = TypeVar("T")


async def asked(request: Request, kind: type[T]) -> T:
    """The body of a create. Raises HttpProblem."""
    data = await body.at_most(request, MOST_BYTES)
    try:
        return msgspec.json.decode(data[: MOST_BYTES + 1], type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refused(f"the body is not valid: {error}") from None


async def create(
    request: Request,
    services: Services,
    caller: Caller,
    *,
    file_id: str,
    arrived_at: datetime,
    **fields: Any,
) -> tuple[Job, int | None]:
    """Make a job of an uploaded file, with these fields of its spec. Also tells the file's size.

    The lines are looked at later: bad ones let it fail. Raises HttpProblem, BadInput.
    """
    spec = _spec(caller, idempotency_key=request.headers.get("idempotency-key") or None, **fields)
    since = arrived_at - _tried_for(request.headers)
    if await request.is_disconnected():
        # It may well have come again by now; nobody would know of what is bought here.
        raise HttpProblem(BROKEN_BODY, "the client went away before it was answered")
    job, size, new = await anyio.to_thread.run_sync(
        partial(_create, services, caller, file_id, spec, since), limiter=services.intake
    )
    structlog.contextvars.bind_contextvars(job=str(job.id))
    log.info("submission_accepted" if new else "submission_known", file=file_id)
    return job, size


async def now(services: Services) -> datetime:
    """When a create arrived, by the database's clock."""
    return await anyio.to_thread.run_sync(clock, services.db)


def _spec(caller: Caller, **fields: Any) -> Spec:
    """The spec that a batch stands for, without its input. Raises HttpProblem, BadInput."""
    try:
        spec = msgspec.convert({"account": caller.account, **fields}, Spec)
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


def cancelled(job: Job, services: Services, caller: Caller, by: Actor) -> Job:
    """Ask for a batch to be cancelled, and look at it again. Raises HttpProblem."""
    if job.state is JobState.CANCELLED:
        raise HttpProblem(ALREADY_ENDED, "the job is cancelled already")
    try:
        cancel(services.db, job.id, operator=operator_of(job, caller, by))
    except Conflict as error:
        raise HttpProblem(ALREADY_ENDED, str(error)) from None
    return visible_batch(str(job.id), services, caller)
