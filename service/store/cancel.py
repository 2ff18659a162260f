"""Cancel a job: mark it, so that everything that is still to come sees the mark."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, any_, cast, func, select, update
from sqlalchemy.orm import Session, aliased

from service.rules.errors import Conflict
from service.rules.states import OPEN_BATCH_STATES, BatchState, JobState, PartState
from service.store.audit import Actor, path, record
from service.store.engine import Database
from service.store.models import Batch, Event, Job, Part
from service.store.parts import end_waiting, take_out
from service.store.wait import TO_END


def cancel(db: Database, job_id: UUID, *, operator: Actor | None = None) -> None:
    """Ask for a job to be cancelled; asking again changes nothing.

    What travels with other jobs travels on. What an operator does goes into the audit log. Raises
    Conflict if the job has ended otherwise.
    """
    with db.begin() as session:
        # Not FOR UPDATE: that would also hold up the events and parts that point to it.
        job = session.scalars(
            select(Job).where(Job.id == job_id).with_for_update(key_share=True)
        ).one_or_none()
        if job is None:
            raise Conflict("the job was forgotten just now")
        if job.state is JobState.CANCELLED:
            return
        # A job may have failed after it was asked to cancel: then it has ended otherwise.
        if job.state not in {JobState.ACCEPTED, JobState.RUNNING}:
            raise Conflict(f"the job is {job.state} already")
        if job.cancel_requested_at is not None:
            return
        job.cancel_requested_at = func.now()
        job.held = job.held_at = None
        if job.parked_at is not None or job.failures:
            job.parked_at, job.not_before = None, func.now()
            job.tries = job.failures = job.faults = 0
        session.add(Event(job_id=job.id, source=job.state, target="cancel_requested"))
        if operator is not None:
            before, after = {"state": job.state}, {"cancelling": True, "pending": job.pending}
            record(session, operator, "cancel", path("jobs", job_id), before=before, after=after)
        session.flush()
        _leave(session, job_id)
        end_waiting(session, [job_id])


def _leave(session: Session, job_id: UUID) -> None:
    """Take the job's parts out of batches that may go without them, and end those that are its own.

    In this order for everybody: parts, then batches.
    """
    parts = session.scalars(
        select(Part)
        .where(Part.job_id == job_id, Part.state != PartState.SETTLED)
        .order_by(Part.id)
        .with_for_update()
    ).all()
    ids = {part.batch_id for part in parts if part.batch_id is not None}
    batches = session.scalars(
        select(Batch)
        .where(Batch.id == any_(cast(sorted(ids), ARRAY(Uuid))))
        .order_by(Batch.id)
        .with_for_update()
    ).all()
    own = _all_cancelled(session, ids)
    for batch in batches:
        mine = [part for part in parts if part.batch_id == batch.id]
        if batch.id not in own and batch.state is BatchState.QUEUED and not batch.sealed:
            take_out(session, mine)
    session.execute(
        update(Batch)
        .where(Batch.id == any_(cast(sorted(own), ARRAY(Uuid))))
        .where(Batch.state.in_(OPEN_BATCH_STATES))
        # Whoever waits for its next look at Together is to look now; a worker that holds it finds
        # the mark when it gives it back.
        .values({**TO_END, Batch.cancelled_at: func.now()})
        .execution_options(synchronize_session=False)
    )


def _all_cancelled(session: Session, ids: Collection[UUID]) -> set[UUID]:
    """Those of the batches of which every job is cancelled. Their rows are locked by now, so that
    of two jobs that are cancelled at once the later one sees the other."""
    others, job = aliased(Part), aliased(Job)
    living = (
        select(others.id)
        .join(job, job.id == others.job_id)
        .where(others.batch_id == Batch.id, others.state != PartState.SETTLED)
        .where(job.cancel_requested_at.is_(None))
    )
    found = select(Batch.id).where(
        Batch.id == any_(cast(sorted(ids), ARRAY(Uuid))), ~living.exists()
    )
    return set(session.scalars(found))
