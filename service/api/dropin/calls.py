"""Ordinary calls, each of which becomes a request in a batch and is answered when that is done."""

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import anyio.to_thread
import msgspec
import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api import body
from service.api.auth import READ, SUBMIT, CalledBy, Caller
from service.api.calls.held import Held
from service.api.calls.results import BATCH, JOB, read_result
from service.api.calls.waiting import Waiting
from service.api.dropin.errors import not_found, refused, told
from service.api.dropin.openapi import json_body
from service.api.gathering import Accepted
from service.api.problems import BROKEN_BODY, KEY_REUSED, HttpProblem, not_stored, over_quota
from service.api.services import Services, Uses
from service.api.v1.submitting import kept_if_new, keyed, prefix
from service.payloads.bundles import SMALL_BYTES
from service.payloads.intake import take_in
from service.rules.calls import Asked, read_call
from service.rules.errors import BadInput, Conflict, OverQuota
from service.rules.requests import AUDIO, CHAT, LINE_BYTES, AudioBody, ChatBody
from service.rules.spec import Spec, envelope_problems
from service.store import jobs
from service.store.calls import Hold, NewCall
from service.store.models import Job
from service.store.submit import Submission

log = structlog.get_logger()

CHAT_PATH, *AUDIO_PATHS = (endpoint.removeprefix("/v1") for endpoint in (CHAT, *AUDIO))
_JSON = {"application/json": {"schema": {"type": "object"}}}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The provider's answer", "content": _JSON},
    202: {"description": "The call is under way; `Location` says where to look", "content": _JSON},
}
RETRY_COUNT = "x-stainless-retry-count"
"""The header with which the SDKs say how many times they have made this call before."""
UNFINISHED = {"Retry-After": "30"}

router = APIRouter()


async def make_call(request: Request, services: Uses, caller: CalledBy) -> Response:
    """Answer a call once its batch is done; with `Prefer: respond-async`, say where to look."""
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise refused("send the call as JSON; `file` is the URL of the clip: no audio is kept here")
    desk = services.desk
    _is_repeat(request)  # or refuse before the body is read
    with ExitStack() as stack:
        stack.enter_context(desk.place(caller))
        data = await body.at_most(request, LINE_BYTES, allowed=caller.body_bytes)
        large = len(data) > SMALL_BYTES
        read = partial(read_call, _endpoint(request), data)
        asked = await anyio.to_thread.run_sync(read, limiter=services.intake) if large else read()
        if await request.is_disconnected():
            # It may well come again. Nobody waits for what would be bought here.
            raise HttpProblem(BROKEN_BODY, "the client went away before it was answered")
        hold = desk.new_hold()
        try:
            job_id, is_known = await _stored(request, services, caller, asked, hold)
        except BaseException:
            desk.drop(hold)  # it may be stored all the same
            raise
        structlog.contextvars.bind_contextvars(job=str(job_id), known=is_known)
        if _is_async(request):
            desk.drop(hold, is_delivered=True)
            return _accepted(request, services, job_id, asynchronous=True)
        request.state.holding.drop()
        return Waiting(
            desk,
            Held(job_id, hold.id, caller),
            stack.pop_all(),
            is_streamed=asked.is_streamed,
            is_known=is_known,
            told=told,
        )


def show_call(call_id: str, request: Request, services: Uses, caller: CalledBy) -> Response:
    """Answer as the call itself would; 202 as long as its batch is not done."""
    job = _visible(call_id, request, services, caller)
    result = read_result(services.db, services.blobs, job.id)
    if result is None:
        return _accepted(request, services, job.id)
    if isinstance(result, HttpProblem):
        raise result
    headers = {JOB: str(job.id)} | ({BATCH: result.batch} if result.batch else {})
    return Response(result.body, media_type="application/json", headers=headers)


for _path, _kind, _name in (
    (CHAT_PATH, ChatBody, "chat_completion"),
    (AUDIO_PATHS[0], AudioBody, "transcription"),
    (AUDIO_PATHS[1], AudioBody, "translation"),
):
    router.post(
        _path,
        name=f"make_{_name}",
        dependencies=[SUBMIT],
        responses=_ANSWERS,
        openapi_extra=json_body(_kind),
    )(make_call)
    router.get(
        _path + "/{call_id}",
        name=f"show_{_name}",
        dependencies=[READ],
        responses=_ANSWERS,
    )(show_call)


def _endpoint(request: Request) -> str:
    path: str = request.scope["route"].path
    return "/v1" + path.removesuffix("/{call_id}")


def _visible(call_id: str, request: Request, services: Services, caller: Caller) -> Job:
    try:
        job = jobs.job(services.db, UUID(call_id), caller.producer)
    except ValueError:
        job = None
    if job is None or not job.is_call or job.endpoint != _endpoint(request):
        raise not_found("call")
    return job


def _is_repeat(request: Request) -> bool:
    """Whether an SDK has made this call before. Raises HttpProblem."""
    count = request.headers.get(RETRY_COUNT, "0")
    if not (count.isascii() and count.isdigit()):
        raise refused(f"{RETRY_COUNT}: {count[:20]!r} is no number")
    return count.strip("0") != "" and "idempotency-key" not in request.headers


def _is_async(request: Request) -> bool:
    prefer = ",".join(request.headers.getlist("prefer")).lower()
    return "respond-async" in (one.partition(";")[0].strip() for one in prefer.split(","))


def _accepted(
    request: Request, services: Services, job_id: UUID, *, asynchronous: bool = False
) -> Response:
    path = _endpoint(request).removeprefix("/v1")
    place = f"{services.settings.public_url or ''}{request.scope['root_path']}{path}/{job_id}"
    headers = {"Location": place, JOB: str(job_id), **UNFINISHED}
    if asynchronous:
        headers["Preference-Applied"] = "respond-async"
    shown = {"id": str(job_id), "object": "call", "status": "in_progress"}
    return JSONResponse(shown, status_code=202, headers=headers)


async def _stored(
    request: Request,
    services: Services,
    caller: Caller,
    asked: Asked,
    hold: Hold,
) -> tuple[UUID, bool]:
    """Return the job of a call, and whether it was there before. Raises HttpProblem, BadInput."""
    if _is_repeat(request):
        known = await services.desk.take(caller.credential, asked.digest, hold)
        if known is not None:
            return known, True
    job_id = uuid4()
    spec = _spec(job_id, asked, request.headers.get("idempotency-key"), caller)
    digest = None if spec.idempotency_key is not None else asked.digest
    call = NewCall(credential=caller.credential, digest=digest, hold=hold)
    submission = Submission(id=job_id, producer=caller.producer, spec=spec, call=call)
    try:
        accepted = await _submitted(services, submission)
    except Conflict as error:
        raise not_stored(error) from None
    except OverQuota as error:
        raise _final(over_quota(error)) from None
    if accepted.new:
        return accepted.job.id, False
    if not await services.desk.attend(accepted.job.id, hold):
        raise HttpProblem(
            KEY_REUSED,
            f"idempotency key {spec.idempotency_key!r} was used for job {accepted.job.id}, which"
            " is no call",
        )
    return accepted.job.id, True


def _spec(job_id: UUID, asked: Asked, key: str | None, caller: Caller) -> Spec:
    spec = keyed(Spec(endpoint=asked.endpoint, account=caller.account), key)
    line = msgspec.Raw(asked.line(job_id, key))
    spec = msgspec.structs.replace(spec, requests=[line])
    if problems := envelope_problems(spec, caller.permissions):
        raise BadInput(problems)
    return spec


async def _submitted(services: Services, submission: Submission) -> Accepted:
    """Store a call. One that is large is taken in by itself, for others not to wait for it."""
    if len((submission.spec.requests or [msgspec.Raw()])[0]) <= SMALL_BYTES:
        return await services.gathering.submit(submission)

    async def store() -> Accepted:
        place = prefix(submission.id)
        take = partial(take_in, submission.spec, services.blobs, place, services.settings)
        taken = await anyio.to_thread.run_sync(take, limiter=services.intake)
        return await services.gathering.submit(replace(submission, taken=taken))

    return await kept_if_new(services, submission.id, store())


def _final(problem: HttpProblem) -> HttpProblem:
    """Tell the SDK not to repeat: nothing was stored, and its repeat would look for what was."""
    headers = {**(problem.headers or {}), "x-should-retry": "false"}
    return HttpProblem(problem.kind, problem.detail, headers=headers, **problem.extras)
