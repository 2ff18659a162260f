"""A move of a job or a batch: checked against the table, made, and written into the event log."""

from typing import Any

from sqlalchemy.orm import Session

from service.rules.notices import ENDS
from service.rules.states import BatchState, JobState, check_move
from service.store.deadlines import close_deadline
from service.store.models import Batch, Event, Job
from service.store.notices import announce


def move_job(session: Session, job: Job, to: JobState, **detail: Any) -> None:
    """Move a job, and tell those who want to know. Raises IllegalMove."""
    check_move(job.state, to)
    session.add(Event(job_id=job.id, source=job.state, target=to, detail=detail))
    job.state = to
    if to in ENDS:
        close_deadline(session, job)
    announce(session, job)


def move_batch(session: Session, batch: Batch, to: BatchState, **detail: Any) -> None:
    """Move a batch. Its event is that of all jobs that have a part in it. Raises IllegalMove."""
    check_move(batch.state, to)
    session.add(Event(batch_id=batch.id, source=batch.state, target=to, detail=detail))
    batch.state = to
