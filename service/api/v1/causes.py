"""What failed for good, grouped by cause: of a job, or lately."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from service.api.auth import READ, CalledBy
from service.api.services import Uses
from service.api.v1.filtering import Instant
from service.api.v1.jobs import VisibleJob
from service.store import causes as store
from service.store.engine import clock
from service.store.views import View

router = APIRouter()

LATELY = timedelta(days=1)


class ExampleView(View):
    """One of the requests that failed like this."""

    job_id: UUID
    custom_id: str
    message: str
    attempts: int
    at: datetime


class CauseView(View):
    """Failed requests with one code, whose messages are alike."""

    id: str = Field(description="Names the cause: the same in every answer.")
    code: str
    text: str = Field(description="The message without its numbers, ids, quotes and places.")
    requests: int
    jobs: int = Field(description="How many jobs they are of, at least.")
    first_at: datetime = Field(description="When the first of those counted failed for good.")
    last_at: datetime
    examples: Sequence[ExampleView]


class CausesView(View):
    """Causes, those of most requests first."""

    data: Sequence[CauseView]
    requests: int = Field(description="The failed requests that were looked at.")
    is_complete: bool = Field(
        description="Whether these are all. Of a job the first 100,000 are looked at, of a time the"
        " newest 20,000 of each producer."
    )
    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def of(
        cls, found: store.Causes, since: datetime | None = None, until: datetime | None = None
    ) -> Self:
        return cls(
            data=[CauseView.model_validate(cause) for cause in found.causes],
            requests=found.requests,
            is_complete=found.is_complete,
            since=since,
            until=until,
        )


class CausesQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=1000)


class ErrorsQuery(CausesQuery):
    since: Instant | None = Field(
        default=None, description="What failed for good at this time or later; default: a day ago."
    )
    until: Instant | None = Field(
        default=None, description="What failed for good before this time; default: now."
    )


@router.get("/jobs/{job_id}/causes", dependencies=[READ])
def list_causes(
    job: VisibleJob, services: Uses, asked: Annotated[CausesQuery, Query()]
) -> CausesView:
    """Group the failed requests of a job by what their errors have in common."""
    return CausesView.of(store.causes_of_job(services.db, job.id, limit=asked.limit))


@router.get("/errors", dependencies=[READ])
def list_errors(
    services: Uses, caller: CalledBy, asked: Annotated[ErrorsQuery, Query()]
) -> CausesView:
    """Group what failed for good lately by what the errors have in common.

    A producer sees the failures of its own jobs, an admin those of all.
    """
    until = asked.until or clock(services.db)
    since = asked.since or _before(until)
    found = store.causes_since(
        services.db, since=since, until=until, producer=caller.sees, limit=asked.limit
    )
    return CausesView.of(found, since, until)


def _before(until: datetime) -> datetime:
    try:
        return until - LATELY
    except OverflowError:
        return until
