"""Cancel a job: mark it, so that every later claim of its batches sees the mark."""

from uuid import UUID

from sqlalchemy import func, select, update

from service.rules.errors import Conflict
from service.rules.states import OPEN_BATCH_STATES, JobState
from service.store.engine import Database
from service.store.models import Batch, Event, Job
from service.store.wait import TO_END


def cancel(db: Database, job_id: UUID) -> None:
    """Ask for a job to be cancelled; asking again changes nothing.

    Raises Conflict if the job has ended otherwise.
    """
    with db.begin() as session:
        # Not FOR UPDATE: that would also hold up the events of its batches, which point to it, and
        # whoever holds a batch and waits to write its event would wait for us, and we for him.
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
        if job.parked_at is not None or job.failures:
            job.parked_at, job.not_before = None, func.now()
            job.tries = job.failures = job.faults = 0
        session.add(Event(job_id=job.id, source=job.state, target="cancel_requested"))
        # Whoever waits for its next look at Together is to look now.
        session.execute(
            update(Batch)
            .where(Batch.job_id == job_id, Batch.state.in_(OPEN_BATCH_STATES))
            .where(Batch.lease.is_(None))
            .values(TO_END)
        )
