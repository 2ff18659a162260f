"""GET …/progress: the progress of a job, as server-sent events."""

from collections.abc import AsyncIterator
from time import monotonic

import structlog
from anyio import to_thread
from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

from service.api.auth import READ, CalledBy, Caller
from service.api.services import Services, Uses
from service.api.streams import EventStream
from service.api.v1.jobs import VisibleJob
from service.rules.forecast import Forecast, NoForecast, differs
from service.rules.states import JobState
from service.store import jobs as store
from service.store.engine import is_unavailable
from service.store.forecasts import shown as forecasts_of
from service.store.models import Job
from service.store.views import JobView

log = structlog.get_logger()
router = APIRouter()

LOOK_SECONDS = 1.0
KEEP_ALIVE_SECONDS = 15.0
LONGEST_SECONDS = 900.0
KEEP_ALIVE = b": still here\n\n"

Said = Forecast | NoForecast | None


_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"type": "string", "enum": ["progress", "end"]},
        "data": {"type": "string", "description": "The job as JSON."},
    },
}


@router.get(
    "/jobs/{job_id}/progress",
    dependencies=[READ],
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A `progress` event at each change of the job, and when its forecast"
            " moves by a tenth; an `end` event when it ends. Both hold the job",
            "content": {EventStream.media_type: {"schema": _EVENT}},
        }
    },
)
async def stream_progress(job: VisibleJob, services: Uses, caller: CalledBy) -> Response:
    """Stream the progress of a job as server-sent events, until the job ends.

    A stream lasts 15 minutes at most; connect again to go on.
    """
    services.streams.check(caller.sees)
    return EventStream(_events(job, services, caller), services.streams, caller.sees)


async def _events(job: Job, services: Services, caller: Caller) -> AsyncIterator[bytes]:
    until = monotonic() + LONGEST_SECONDS
    shown, said_at = "", monotonic()
    said: Said = None
    limiter = services.streams.limiter
    forecast = await to_thread.run_sync(_forecast, services, job, limiter=limiter)
    while not services.streams.is_ending and monotonic() < until:
        document = JobView.of(job).model_dump_json()
        if job.state not in {JobState.ACCEPTED, JobState.RUNNING}:
            yield _event("end", document)
            return
        if document != shown or differs(said, forecast, job.created_at):
            yield _event("progress", JobView.of(job, forecast).model_dump_json())
            shown, said, said_at = document, forecast, monotonic()
        elif monotonic() - said_at > KEEP_ALIVE_SECONDS:
            yield KEEP_ALIVE
            said_at = monotonic()
        await services.streams.pause(LOOK_SECONDS)
        found = await to_thread.run_sync(_look, services, job, caller, limiter=limiter)
        if found is None:
            return
        job, forecast = found


def _forecast(services: Services, job: Job) -> Said:
    return forecasts_of(services.db, [job]).get(job.id)


def _look(services: Services, job: Job, caller: Caller) -> tuple[Job, Said] | None:
    """Return the job and its forecast now, or as given and none if Postgres is unavailable.

    Returns None if it was pruned, or if the caller's token is no longer valid.
    """
    try:
        if not services.authenticator.is_valid(caller):
            return None
        found = store.job(services.db, job.id, caller.sees)
        return None if found is None else (found, _forecast(services, found))
    except Exception as error:
        if not is_unavailable(error):
            raise
        log.warning("progress_not_known", job=str(job.id))
        return job, None


def _event(name: str, document: str) -> bytes:
    return f"event: {name}\ndata: {document}\n\n".encode()
