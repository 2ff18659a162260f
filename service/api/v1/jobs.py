"""Listing, showing and cancelling jobs."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from service.api import cursors
from service.api.acting import ActedBy, operator_of
from service.api.auth import CANCEL, READ, CalledBy, Caller
from service.api.openapi import problem
from service.api.problems import ALREADY_ENDED, NOT_FOUND, HttpProblem
from service.api.services import Services, Uses
from service.api.v1.filtering import JobsQuery, PageQuery
from service.api.v1.rehearsing import DryRun, PreviewView, for_verb, preview
from service.api.v1.schemas import BatchView, EventView, FailureView, JobDetail, Page
from service.rules.admission import Capacity
from service.rules.errors import Conflict
from service.rules.packing import Limits
from service.store import jobs as store
from service.store.audit import Actor
from service.store.cancel import cancel
from service.store.forecasts import shown
from service.store.models import Job
from service.store.views import JobView, View
from service.store.waiting import why

router = APIRouter()

Row = TypeVar("Row")
V = TypeVar("V", bound=View)


def visible_job(job_id: str, services: Uses, caller: CalledBy) -> Job:
    """Return the job in the path.

    Raises HttpProblem (404) for an unknown id and for another producer's job alike.
    """
    try:
        job = store.job(services.db, UUID(job_id), caller.sees)
    except ValueError:
        job = None
    if job is None:
        raise HttpProblem(NOT_FOUND, "there is no such job")
    return job


def page(
    found: Sequence[Row], limit: int, view: Callable[[Row], V], cursor: Callable[[Row], Any]
) -> Page[V]:
    """Return a page of `limit` rows. One row more in `found` means that another page follows."""
    rows = found[:limit]
    more = len(found) > limit
    return Page(
        data=[view(row) for row in rows],
        next_cursor=cursors.written(cursor(rows[-1])) if more else None,
    )


def job_now(job_id: UUID, services: Services, caller: Caller) -> JobView:
    """Show a job as it is after a verb. Raises HttpProblem (404) if it is gone."""
    job = visible_job(str(job_id), services, caller)
    return JobView.of(job, shown(services.db, [job]).get(job.id))


VisibleJob = Annotated[Job, Depends(visible_job)]


def operator(job: VisibleJob, caller: CalledBy, by: ActedBy) -> Actor | None:
    """Return the caller if it acts on the job in the path as an operator, for the audit log."""
    return operator_of(job, caller, by)


Operator = Annotated[Actor | None, Depends(operator)]
Asked = Annotated[PageQuery, Query()]


@router.get("/jobs", dependencies=[READ])
def list_jobs(
    services: Uses, caller: CalledBy, asked: Annotated[JobsQuery, Query()]
) -> Page[JobView]:
    """List jobs, newest first."""
    after = cursors.read(asked.cursor, cursors.AfterJob) if asked.cursor else None
    if caller.sees is not None and asked.producer not in {None, caller.sees}:
        return Page(data=[])  # others' jobs do not exist
    found = store.jobs(
        services.db,
        producer=caller.sees or asked.producer,
        states=asked.state,
        marks=asked.metadata,
        created_from=asked.created_after,
        created_before=asked.created_before,
        before=(after.created_at, after.id) if after else None,
        calls=asked.calls,
        id_begins=asked.id,
        limit=asked.limit + 1,
    )
    said = shown(services.db, found)
    return page(
        found,
        asked.limit,
        lambda job: JobView.of(job, said.get(job.id)),
        lambda row: cursors.AfterJob(row.created_at, row.id),
    )


@router.get("/jobs/{job_id}", dependencies=[READ])
def show_job(job: VisibleJob, services: Uses) -> JobDetail:
    """Show a job and, if it waits, the reason."""
    capacity, limits = Capacity.of(services.settings), Limits.of(services.settings)
    reason = why(services.db, job, capacity, limits)
    said = shown(services.db, [job]).get(job.id)
    return JobDetail.explained(job, reason, store.check_of(services.db, job.id), said)


@router.get("/jobs/{job_id}/batches", dependencies=[READ])
def list_batches(job: VisibleJob, services: Uses, asked: Asked) -> Page[BatchView]:
    """List the parts of a job with their provider batches, by shard, oldest first."""
    after = cursors.read(asked.cursor, cursors.AfterPart) if asked.cursor else None
    found = store.parts(
        services.db,
        job.id,
        after=(after.shard, after.created_at, after.id) if after else None,
        limit=asked.limit + 1,
    )
    return page(
        found,
        asked.limit,
        BatchView.of,
        lambda row: cursors.AfterPart(row[0].shard, row[0].created_at, row[0].id),
    )


@router.get("/jobs/{job_id}/events", dependencies=[READ])
def list_events(job: VisibleJob, services: Uses, asked: Asked) -> Page[EventView]:
    """List the events of a job and its batches, in order."""
    after = cursors.read(asked.cursor, cursors.AfterEvent).id if asked.cursor else 0
    found = store.events(services.db, job.id, after=after, limit=asked.limit + 1)
    return page(found, asked.limit, EventView.of, lambda row: cursors.AfterEvent(row.id))


@router.get("/jobs/{job_id}/failures", dependencies=[READ])
def list_failures(job: VisibleJob, services: Uses, asked: Asked) -> Page[FailureView]:
    """List the requests that failed permanently, in input order."""
    after = cursors.read(asked.cursor, cursors.AfterFailure).ordinal if asked.cursor else -1
    found = store.failures(services.db, job.id, after=after, limit=asked.limit + 1)
    return page(found, asked.limit, FailureView.of, lambda row: cursors.AfterFailure(row.ordinal))


@router.post(
    "/jobs/{job_id}/cancel",
    status_code=202,
    dependencies=[CANCEL],
    responses={409: problem("The job has ended")},
)
def cancel_job(
    *,
    job: VisibleJob,
    services: Uses,
    caller: CalledBy,
    operator: Operator,
    acting: ActedBy,
    dry_run: DryRun = False,
) -> JobView | PreviewView:
    """Cancel a job. Cancelling it again changes nothing."""
    db, by = for_verb(services.db, dry_run=dry_run), acting if dry_run else operator
    try:
        cancel(db, job.id, operator=by)
    except Conflict as error:
        raise HttpProblem(ALREADY_ENDED, str(error)) from None
    return preview(db) or job_now(job.id, services, caller)
