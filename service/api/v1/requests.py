"""GET …/requests/{custom_id}: one request of a job, with its attempts and result."""

import json
from datetime import datetime
from typing import Any, Literal, NoReturn
from uuid import UUID

import msgspec
from anyio import to_thread
from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from service.api.auth import READ
from service.api.openapi import problem
from service.api.problems import NOT_FOUND, HttpProblem
from service.api.services import Uses
from service.api.v1.history import Attempt, Fate, History, history
from service.api.v1.jobs import VisibleJob
from service.rules.states import BatchState, JobState
from service.store.views import UsageView, View
from service.together.answers import read_answer

router = APIRouter()


class ErrorView(View):
    code: str
    message: str


class AttemptView(View):
    """A provider batch that held the request, perhaps with requests of other jobs."""

    batch_id: UUID | None = Field(description="Null while the request waits for a batch.")
    provider_batch_id: str | None
    attempt: int = Field(description="The attempt number, from 1.")
    state: BatchState | Literal["waiting"]
    provider_status: str | None
    outcome: Fate = Field(
        description="The outcome in this batch; `carried` if it moved on to the next."
    )
    error: ErrorView | None = Field(
        description="The error, if the request failed permanently in this batch."
    )
    created_at: datetime
    submitted_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, attempt: Attempt) -> "AttemptView":
        part, batch = attempt.part, attempt.batch
        return cls(
            batch_id=part.batch_id,
            provider_batch_id=batch.provider_batch_id if batch else None,
            attempt=part.attempt,
            state=batch.state if batch else "waiting",
            provider_status=batch.provider_status if batch else None,
            outcome=attempt.fate,
            error=_error(attempt.line) if attempt.fate is Fate.FAILED else None,
            created_at=part.created_at,
            submitted_at=batch.submitted_at if batch else None,
            finished_at=part.finished_at,
        )


class RequestView(View):
    custom_id: str
    ordinal: int = Field(description="The request's position in the input, from 0.")
    outcome: Fate = Field(description="One of pending, succeeded or failed.")
    error: ErrorView | None = Field(description="The error, if the request failed permanently.")
    usage: UsageView | None = Field(description="The tokens used, if the answer reports them.")
    attempts: list[AttemptView] = Field(
        description="The batches that held the request, oldest first."
    )
    result: Any = Field(default=None, description="The result line, if there is one.")


@router.get(
    "/jobs/{job_id}/requests/{custom_id:path}",
    dependencies=[READ],
    response_model=RequestView,
    responses={404: problem("The job or the request does not exist")},
)
async def show_request(job: VisibleJob, services: Uses, custom_id: str) -> Response:
    """Show one request of a job, by its percent-encoded custom_id, with every attempt."""
    found = await to_thread.run_sync(
        history, services.db, services.blobs, job.id, custom_id, limiter=services.lookups
    )
    if found is None:
        unread = job.state is JobState.ACCEPTED
        raise HttpProblem(
            NOT_FOUND,
            "the job's input has not been read yet"
            if unread
            else "the job has no request of this custom_id",
        )
    return Response(_document(found), media_type="application/json")


def _document(found: History) -> bytes:
    """Return the view as JSON, with the result line in it byte for byte."""
    dead = found.dead if found.fate is Fate.FAILED else None
    view = RequestView(
        custom_id=found.custom_id,
        ordinal=found.ordinal,
        outcome=found.fate,
        error=None if dead is None else ErrorView.model_validate(dead),
        usage=_usage(found.line) if found.fate is Fate.SUCCEEDED else None,
        attempts=[AttemptView.of(attempt) for attempt in found.attempts],
    )
    head = view.model_dump_json(exclude={"result"}).encode()
    return head[:-1] + b',"result":' + _as_json(found.line) + b"}"


def _as_json(line: bytes | None) -> bytes:
    """Return the line itself if it is JSON, else as a JSON string."""
    if line is None:
        return b"null"
    try:
        json.loads(line.decode(), parse_constant=_reject)
    except (ValueError, RecursionError):
        return msgspec.json.encode(line.decode(errors="replace"))
    return line


def _reject(constant: str) -> NoReturn:
    """Raise ValueError for NaN and Infinity, which Python reads but JSON does not have."""
    raise ValueError(constant)


class _DeadLine(msgspec.Struct):
    error: "_DeadError"


class _DeadError(msgspec.Struct):
    code: str
    message: str


def _error(line: bytes | None) -> ErrorView | None:
    """Return the error in the result line of a dead request. Haulier wrote that line."""
    try:
        error = msgspec.json.decode(line or b"", type=_DeadLine).error
    except msgspec.DecodeError:
        return None
    return ErrorView(code=error.code, message=error.message)


def _usage(line: bytes | None) -> UsageView | None:
    frame = read_answer(line or b"")
    body = frame.response.body if frame is not None and frame.response is not None else None
    return None if body is None or body.usage is None else UsageView.model_validate(body.usage)
