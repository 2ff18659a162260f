"""Reading batches by themselves, whichever jobs travel in them."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import and_, or_, select, tuple_

from service.rules.states import BatchState
from service.store.engine import Database
from service.store.models import Batch, Event, Job, Lane, Part

MOST_PARTS = 200


def batches(
    db: Database,
    *,
    producer: str | None,
    states: Sequence[BatchState] = (),
    parked: bool = False,
    account: str | None = None,
    model: str | None = None,
    named: str | None = None,
    before: tuple[datetime, UUID] | None = None,
    limit: int,
) -> list[Batch]:
    """Return batches, newest first. `named` is its id, here or at Together."""
    query = select(Batch).order_by(Batch.created_at.desc(), Batch.id.desc()).limit(limit)
    if named is not None:
        # With the accounts, which its index begins with.
        known = select(Lane.account).distinct().scalar_subquery()
        here = and_(Batch.account.in_(known), Batch.provider_batch_id == named)
        try:
            query = query.where(or_(here, Batch.id == UUID(named)))
        except ValueError:
            query = query.where(here)
    if producer is not None:
        query = query.where(Batch.producer == producer)
    if states:
        query = query.where(Batch.state.in_(states))
    if parked:
        query = query.where(Batch.parked_at.is_not(None))
    if account is not None:
        query = query.where(Batch.account == account)
    if model is not None:
        query = query.where(Batch.model == model)
    if before is not None:
        query = query.where(tuple_(Batch.created_at, Batch.id) < before)
    with db.begin() as session:
        return list(session.scalars(query))


def batch(db: Database, batch_id: UUID, producer: str | None) -> Batch | None:
    """Return a batch if it belongs to the producer; with None, whoever it belongs to."""
    with db.begin() as session:
        found = session.get(Batch, batch_id)
        return found if found is not None and producer in {None, found.producer} else None


def parts_in(db: Database, batch_id: UUID) -> list[tuple[Part, Job]]:
    """Return what travels in a batch, with the jobs: the first 200 parts."""
    query = (
        select(Part, Job)
        .join(Job, Job.id == Part.job_id)
        .where(Part.batch_id == batch_id)
        .order_by(Part.created_at, Part.id)
        .limit(MOST_PARTS)
    )
    with db.begin() as session:
        return [(part, job) for part, job in session.execute(query)]


def events_of(db: Database, batch_id: UUID, limit: int) -> list[Event]:
    """Return a batch's events, newest first."""
    query = select(Event).where(Event.batch_id == batch_id).order_by(Event.id.desc()).limit(limit)
    with db.begin() as session:
        return list(session.scalars(query))
