"""Rows that wait for an operator: let them go on, or give them up."""

from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update

from service.rules.errors import Conflict
from service.rules.states import OPEN_BATCH_STATES, PartState
from service.rules.work import Ending
from service.store.audit import Actor, path, record
from service.store.engine import Database
from service.store.models import Batch, Event, Job, Part

_FRESH = {
    "parked_at": None,
    "tries": 0,
    "failures": 0,
    "faults": 0,
    "not_before": func.now(),
}


def _of_job(job_id: UUID) -> ColumnElement[bool]:
    """Match batches that have an open part of the job. Other jobs may travel in them, too."""
    return Batch.id.in_(
        select(Part.batch_id).where(Part.job_id == job_id, Part.state == PartState.TRAVELLING)
    )


def unpark(db: Database, job_id: UUID, *, operator: Actor | None = None) -> int:
    """Release a job's parked rows, and return their number.

    What an operator does goes into the audit log.
    """
    with db.begin() as session:
        rows = [
            *session.scalars(
                update(Job)
                .where(Job.id == job_id, Job.parked_at.is_not(None))
                .values(_FRESH)
                .returning(Job.id)
            ),
            *session.scalars(
                update(Batch)
                .where(_of_job(job_id), Batch.parked_at.is_not(None))
                # What is parked is looked at twice before it is parked again.
                .values({**_FRESH, "not_there": 0, "refusals": 0, "look": None, "look_since": None})
                .returning(Batch.id)
            ),
        ]
        if rows:
            session.add(Event(job_id=job_id, target="unparked", detail={"rows": len(rows)}))
            if operator is not None:
                after = {"rows": len(rows)}
                record(session, operator, "unpark", path("jobs", job_id), after=after)
        return len(rows)


def abandon(db: Database, job_id: UUID, *, again: bool, by: Actor | None = None) -> int:
    """Give up a job's parked batches, and return their number.

    Whatever travels in them shares their fate: requests become dead letters, or go into new batches
    (`again`), which may buy them a second time. Raises Conflict if no batch of the job is parked.
    """
    ending = Ending.AGAIN if again else Ending.DEAD
    with db.begin() as session:
        given_up = session.scalars(
            update(Batch)
            .where(_of_job(job_id), Batch.parked_at.is_not(None))
            .where(Batch.state.in_(OPEN_BATCH_STATES))
            .values({**_FRESH, "ending": ending})
            .returning(Batch.id)
        ).all()
        if not given_up:
            raise Conflict("no batch of the job waits for an operator")
        detail = {"batches": len(given_up), "requests": str(ending)}
        session.add(Event(job_id=job_id, target="abandoned", detail=detail))
        record(session, by, "abandon", path("jobs", job_id), after=detail)
        return len(given_up)
