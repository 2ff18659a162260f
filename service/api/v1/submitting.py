"""POST /v1/jobs: submit a batch spec as JSON, or its requests as JSONL."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar
from uuid import UUID, uuid4

import anyio.to_thread
import msgspec
import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api import body
from service.api.auth import SUBMIT as MAY_SUBMIT
from service.api.auth import CalledBy, Caller, unauthorized
from service.api.gathering import Accepted
from service.api.openapi import SUBMIT, problem
from service.api.problems import (
    UNSUPPORTED,
    HttpProblem,
    invalid,
    not_stored,
    over_quota,
)
from service.api.services import Services, Uses
from service.api.v1.spec_fields import read_query
from service.api.watching import as_long_as
from service.payloads.blobs import STORAGE_ERRORS, Blobs
from service.payloads.bundles import SMALL_BYTES
from service.payloads.intake import Intake, take_in
from service.rules.errors import BadInput, Conflict, OverQuota
from service.rules.forecast import NOT_YET, Forecast, NoForecast
from service.rules.names import trouble_with
from service.rules.permissions import Permissions
from service.rules.spec import SPEC_BYTES, Spec, read_spec
from service.store.forecasts import shown
from service.store.permissions import permissions_for
from service.store.submit import Submission
from service.store.views import JobView

JSONL_TYPES = frozenset(
    {
        *("application/x-ndjson", "application/jsonl", "application/jsonlines"),
        *("application/gzip", "application/x-gzip"),  # what is unpacked is looked at
    }
)

log = structlog.get_logger()

T = TypeVar("T")

router = APIRouter()


@router.post(
    "/jobs",
    status_code=201,
    response_model=JobView,
    dependencies=[MAY_SUBMIT],
    responses={
        200: {
            "description": "The job of the same submission, accepted before",
            "model": JobView,
        },
        409: problem(
            "The idempotency key belongs to a job with different content, or the producer is"
            " disabled"
        ),
        413: problem("The body or the job is larger than the producer may submit"),
        429: problem("The producer has reached a limit; `Retry-After` says when to try again"),
    },
    openapi_extra=SUBMIT,
)
async def submit_job(request: Request, services: Uses, caller: CalledBy) -> Response:
    """Submit a job, as a JSON spec or as JSONL.

    With JSONL, the body holds the requests and the query parameters hold the other fields.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if media_type == "application/json":
            accepted = await _submit_spec(request, services, caller)
        elif media_type in JSONL_TYPES:
            accepted = await _submit_lines(request, services, caller)
        else:
            raise HttpProblem(
                UNSUPPORTED,
                f"content-type {media_type!r}: send application/json or application/x-ndjson",
                headers={"Accept-Post": "application/json, application/x-ndjson"},
            )
    except Conflict as error:
        raise not_stored(error) from None
    except OverQuota as error:
        raise over_quota(error) from None
    job, new = accepted.job, accepted.new
    # For the line that the request has in the log.
    structlog.contextvars.bind_contextvars(job=str(job.id), new=new, total=job.total)
    said: Forecast | NoForecast | None = None if job.finished_at is not None else NOT_YET
    if not new:
        said = (await _in_thread(services, partial(shown, services.db, [job]))).get(job.id)
    return Response(
        JobView.of(job, said).model_dump_json(),
        status_code=201 if new else 200,
        media_type="application/json",
        headers={"Location": f"{services.settings.public_url or ''}/v1/jobs/{job.id}"},
    )


def prefix(job_id: UUID) -> str:
    return f"jobs/{job_id}/{uuid4()}"


async def _in_thread(services: Services, work: Callable[[], T]) -> T:
    return await anyio.to_thread.run_sync(work, limiter=services.intake)


async def _submit_spec(request: Request, services: Services, caller: Caller) -> Accepted:
    """Store a JSON spec that holds its requests or names its `input`."""
    if request.query_params:
        raise invalid("a JSON spec takes no query parameters; move them into the body")
    key = request.headers.get("idempotency-key")
    data = await body.at_most(request, SPEC_BYTES, allowed=caller.body_bytes)
    permissions = await _permissions(services, caller, has_webhook=b"webhook" in data)
    job_id = uuid4()
    if len(data) <= SMALL_BYTES:
        spec = keyed(read_spec(data, permissions), key)
        return await services.gathering.submit(
            Submission(id=job_id, producer=caller.producer, spec=spec)
        )

    def take() -> Submission:
        spec = keyed(read_spec(data, permissions), key)
        taken = take_in(spec, services.blobs, prefix(job_id), services.settings)
        return Submission(id=job_id, producer=caller.producer, spec=spec, taken=taken)

    async def store() -> Accepted:
        return await services.gathering.submit(await _in_thread(services, take))

    return await kept_if_new(services, job_id, store())


async def _submit_lines(request: Request, services: Services, caller: Caller) -> Accepted:
    """Store request lines in constant memory: work on each block before reading the next."""
    key = request.headers.get("idempotency-key")
    has_webhook = "webhook" in request.query_params.get("notify", "")
    permissions = await _permissions(services, caller, has_webhook=has_webhook)
    spec = keyed(read_query(request.query_params, permissions), key)
    job_id = uuid4()
    is_valid = partial(services.authenticator.is_valid, caller)

    async def store() -> Accepted:
        async with as_long_as(is_valid, services, otherwise=unauthorized()):
            with Intake(
                services.blobs,
                prefix(job_id),
                spec.endpoint,
                services.settings,
                hashed=spec.idempotency_key is not None,
                most_bytes=caller.body_bytes,
                canary=spec.canary,
                max_cost=spec.max_cost,
            ) as intake:
                async for block in body.blocks(request, caller.body_bytes):
                    await _in_thread(services, partial(intake.feed, block))
                taken = await _in_thread(services, intake.finish)
        submission = Submission(id=job_id, producer=caller.producer, spec=spec, taken=taken)
        return await services.gathering.submit(submission)

    return await kept_if_new(services, job_id, store())


async def kept_if_new(services: Services, job_id: UUID, stored: Awaitable[Accepted]) -> Accepted:
    """Store a job. Delete at once what was written for one that is refused, or there already.

    After any other error the job may be there. Then the sweep looks.
    """
    drop = partial(_drop, services.blobs, job_id)
    try:
        accepted = await stored
    except (HttpProblem, BadInput, Conflict, OverQuota):
        await _in_thread(services, drop)
        raise
    if not accepted.new:
        await _in_thread(services, drop)
    return accepted


def _drop(blobs: Blobs, job_id: UUID) -> None:
    try:
        blobs.delete_under(f"jobs/{job_id}/", datetime.max.replace(tzinfo=UTC))
    except (OSError, *STORAGE_ERRORS) as error:
        log.warning("submission_stays", job=str(job_id), reason=str(error))  # for the sweep


async def _permissions(services: Services, caller: Caller, *, has_webhook: bool) -> Permissions:
    """Return the caller's permissions.

    Jobs of the admin token are those of `default`, which says where their webhooks may go. Nobody
    looks that up who sends no webhook.
    """
    if caller.token_id is not None or not has_webhook:
        return caller.permissions
    find = partial(permissions_for, services.db, caller.producer, services.settings)
    found = await anyio.to_thread.run_sync(find)
    return msgspec.structs.replace(caller.permissions, private_webhooks=found.private_webhooks)


def keyed(spec: Spec, header: str | None) -> Spec:
    """Return the spec with the key of the `Idempotency-Key` header. Raises HttpProblem."""
    if header is None:
        return spec
    try:
        # The header follows the rule of the field.
        msgspec.convert({"endpoint": "", "idempotency_key": header}, Spec)
    except msgspec.ValidationError as error:
        raise invalid(f"header Idempotency-Key: {error}") from None
    if trouble := trouble_with(header):
        raise invalid(f"header Idempotency-Key: {trouble}")
    if spec.idempotency_key not in {None, header}:
        raise invalid("header Idempotency-Key and `idempotency_key` differ; give one of them")
    return msgspec.structs.replace(spec, idempotency_key=header)
