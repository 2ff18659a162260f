"""Retrying failed requests, releasing what is held, giving up what waits for an operator."""

from typing import Annotated, Literal, Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.api.acting import ActedBy
from service.api.auth import ADMIN, SUBMIT, CalledBy
from service.api.body import SMALL_BODY
from service.api.openapi import problem
from service.api.problems import INVALID, NOT_RETRYABLE, NOTHING_HELD, NOTHING_PARKED, HttpProblem
from service.api.services import Uses
from service.api.v1.amounts import Usd
from service.api.v1.jobs import Operator, VisibleJob, job_now
from service.api.v1.rehearsing import DryRun, PreviewView, for_verb, preview
from service.rules.errors import MOST_PROBLEMS, Conflict
from service.runner.retrying import rehearsed, write_manifests
from service.store.causes import custom_ids_of_cause
from service.store.hold import release
from service.store.parked import abandon, unpark
from service.store.revive import dead_letters_by_part, revive
from service.store.views import JobView

router = APIRouter(max_body_size=SMALL_BODY)


# No request has a longer id, and Postgres takes no NUL in a query.
CustomId = Annotated[str, StringConstraints(max_length=64, pattern=r"^[^\x00]+$")]


class Retry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    custom_ids: list[CustomId] | None = Field(
        default=None, description="The failed requests to retry; all of them if left out."
    )
    cause: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")] | None = Field(
        default=None,
        description="Retry those that failed for this cause: the `id` of one in"
        " `GET /v1/jobs/{id}/causes`.",
    )
    limit: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        default=None,
        description="With `cause`: the most requests to retry, the first ones.",
    )

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.cause is not None and self.custom_ids is not None:
            raise ValueError("name custom_ids or a cause, not both")
        if self.limit is not None and self.cause is None:
            raise ValueError("limit: goes with a cause")
        return self


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    dependencies=[SUBMIT],
    responses={409: problem("The job is not finished, or has no failed requests")},
)
def retry_job(
    *,
    job: VisibleJob,
    services: Uses,
    caller: CalledBy,
    operator: Operator,
    acting: ActedBy,
    asked: Retry | None = None,
    dry_run: DryRun = False,
) -> JobView | PreviewView:
    """Retry failed requests of a finished job, permanent failures included.

    Each request gets a fresh set of attempts. The present results stay readable until new results
    replace them. In a running job, this resumes parked work instead.
    """
    db, by = for_verb(services.db, dry_run=dry_run), acting if dry_run else operator
    chosen = None if asked is None else _chosen(services, job, asked)
    if chosen is None and unpark(db, job.id, operator=by):
        return preview(db) or job_now(job.id, services, caller)
    found, names = dead_letters_by_part(services.db, job.id, chosen)
    unknown = [custom_id for custom_id in chosen or () if custom_id not in names]
    if unknown:
        raise HttpProblem(
            INVALID,
            f"{len(unknown)} of the custom_ids are no failed requests of this job",
            custom_ids=unknown[:MOST_PROBLEMS],
        )
    if not found:
        raise HttpProblem(NOT_RETRYABLE, "the job has no failed requests", state=job.state)
    revivals = rehearsed(found) if dry_run else write_manifests(services.blobs, job.id, found)
    try:
        revive(db, job.id, revivals, operator=by)
    except Conflict as error:
        raise HttpProblem(NOT_RETRYABLE, str(error)) from None
    return preview(db) or job_now(job.id, services, caller)


def _chosen(services: Uses, job: VisibleJob, asked: Retry) -> list[str] | None:
    """Return the custom_ids that are asked for; None for all. Raises HttpProblem."""
    if asked.cause is None:
        return asked.custom_ids
    found = custom_ids_of_cause(services.db, job.id, asked.cause, asked.limit)
    if not found:
        words = f"no failed request has the cause {asked.cause}; see GET …/causes"
        raise HttpProblem(INVALID, words)
    return found


class Release(BaseModel):
    model_config = ConfigDict(extra="forbid")

    max_cost: Usd | None = Field(
        default=None, description="The new `max_cost` of the job; as it is if left out."
    )


@router.post(
    "/jobs/{job_id}/release",
    status_code=202,
    dependencies=[SUBMIT],
    responses={409: problem("Nothing of the job is held")},
)
def release_job(
    *,
    job: VisibleJob,
    services: Uses,
    caller: CalledBy,
    operator: Operator,
    acting: ActedBy,
    asked: Release | None = None,
    dry_run: DryRun = False,
) -> JobView | PreviewView:
    """Let the held rest of a job go, however its canary has fared, or change its `max_cost`."""
    db, by = for_verb(services.db, dry_run=dry_run), acting if dry_run else operator
    most = None if asked is None else asked.max_cost
    try:
        release(db, job.id, max_cost=most, operator=by)
    except Conflict as error:
        raise HttpProblem(NOTHING_HELD, str(error), state=job.state) from None
    return preview(db) or job_now(job.id, services, caller)


class Abandon(BaseModel):
    model_config = ConfigDict(extra="forbid")

    requests: Literal["dead", "again"] = Field(
        description="What becomes of the requests of the parked batches: `dead` makes them dead"
        " letters; `again` puts them into new batches, which may buy them a second time."
    )


@router.post(
    "/jobs/{job_id}/abandon",
    status_code=202,
    dependencies=[ADMIN],
    responses={409: problem("No batch of the job waits for an operator")},
)
def abandon_job(
    *,
    job: VisibleJob,
    services: Uses,
    caller: CalledBy,
    asked: Abandon,
    by: ActedBy,
    dry_run: DryRun = False,
) -> JobView | PreviewView:
    """Give up the batches of a job that wait for an operator.

    What Together holds of them is left there. If it still runs, it will be cancelled.
    """
    db = for_verb(services.db, dry_run=dry_run)
    try:
        abandon(db, job.id, again=asked.requests == "again", by=by)
    except Conflict as error:
        raise HttpProblem(NOTHING_PARKED, str(error), state=job.state) from None
    return preview(db) or job_now(job.id, services, caller)
