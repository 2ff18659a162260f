"""The deliveries of a job's notices, and sending one again."""

from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter
from pydantic import Field

from service.api import cursors
from service.api.acting import ActedBy
from service.api.auth import READ, SUBMIT
from service.api.problems import NOT_FOUND, HttpProblem
from service.api.services import Uses
from service.api.v1.jobs import Asked, Operator, VisibleJob
from service.api.v1.rehearsing import DryRun, PreviewView, for_verb, preview
from service.api.v1.schemas import Page
from service.store.models import Delivery
from service.store.notices import deliveries, redeliver
from service.store.views import View

router = APIRouter()


class DeliveryView(View):
    """One notice to one target. Its id is the `webhook-id` or the id of the Celery task."""

    id: UUID
    event: str = Field(description="`job.completed`, `job.progress` …")
    target: dict[str, Any] = Field(description="`webhook`, or `task` and `queue`.")
    state: Literal["pending", "delivered", "parked"]
    tries: int
    last_error: str | None = Field(description="Why the last try failed.")
    not_before: datetime = Field(description="When a pending notice is tried next.")
    created_at: datetime
    delivered_at: datetime | None
    parked_at: datetime | None = Field(
        description="When Haulier stopped trying to deliver the notice."
    )

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        state = "delivered" if delivery.delivered_at else "pending"
        known = {name: getattr(delivery, name) for name in cls.model_fields if name != "state"}
        return cls.model_validate({**known, "state": "parked" if delivery.parked_at else state})


@router.get("/jobs/{job_id}/deliveries", dependencies=[READ])
def list_deliveries(job: VisibleJob, services: Uses, asked: Asked) -> Page[DeliveryView]:
    """List the deliveries of a job's notices, oldest first."""
    after = cursors.read(asked.cursor, cursors.AfterDelivery) if asked.cursor else None
    found = deliveries(
        services.db,
        job.id,
        after=(after.created_at, after.id) if after else None,
        limit=asked.limit + 1,
    )
    rows = found[: asked.limit]
    more = len(found) > asked.limit
    return Page(
        data=[DeliveryView.of(row) for row in rows],
        next_cursor=cursors.written(cursors.AfterDelivery(rows[-1].created_at, rows[-1].id))
        if more
        else None,
    )


@router.post(
    "/jobs/{job_id}/deliveries/{delivery_id}/redeliver", status_code=202, dependencies=[SUBMIT]
)
def redeliver_notice(
    *,
    job: VisibleJob,
    delivery_id: str,
    services: Uses,
    operator: Operator,
    acting: ActedBy,
    dry_run: DryRun = False,
) -> DeliveryView | PreviewView:
    """Send a notice again with the same id, whether it is delivered, parked or pending."""
    db, by = for_verb(services.db, dry_run=dry_run), acting if dry_run else operator
    try:
        found = redeliver(db, job.id, UUID(delivery_id), operator=by)
    except ValueError:
        found = None
    if found is None:
        raise HttpProblem(NOT_FOUND, "the job has no such delivery")
    return preview(db) or DeliveryView.of(found)
