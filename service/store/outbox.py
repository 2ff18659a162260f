"""Reading the outbox of notices, whichever jobs they are about."""

from sqlalchemy import select

from service.store.engine import Database
from service.store.models import Delivery, Job


def outbox(
    db: Database, *, producer: str | None, parked: bool, limit: int
) -> list[tuple[Delivery, str]]:
    """Return notices that nobody tries to deliver any more, newest first, or (with `parked` false)
    those that are still to be delivered, oldest first; each with the job's producer."""
    query = select(Delivery, Job.producer).join(Job, Job.id == Delivery.job_id)
    if parked:
        query = query.where(Delivery.parked_at.is_not(None)).order_by(Delivery.parked_at.desc())
    else:
        query = query.where(Delivery.delivered_at.is_(None), Delivery.parked_at.is_(None))
        query = query.order_by(Delivery.created_at, Delivery.id)
    if producer is not None:
        query = query.where(Job.producer == producer)
    with db.begin() as session:
        return [(row[0], row[1]) for row in session.execute(query.limit(limit))]
