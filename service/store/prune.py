"""Prune old jobs: delete their rows, and note what is still to be deleted elsewhere."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import accumulate
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, text, union
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session

from service.rules.states import JobState
from service.store.engine import Database
from service.store.leftovers import WATCHED
from service.store.models import Batch, Delivery, Job, Leftover

MOST_ROWS = 50_000
"""About how many rows one transaction deletes; a job with more goes alone."""

_FINISHED = (JobState.COMPLETED, JobState.CANCELLED, JobState.REJECTED, JobState.FAILED)


def prune_jobs(db: Database, *, older_than: timedelta, limit: int) -> int:
    """Delete at most `limit` jobs that ended longer than `older_than` ago, oldest first.

    One transaction notes what the jobs leave in blob storage and at Together as leftovers, and
    deletes their rows. Returns the number of jobs deleted; 0 when none are left.
    """
    old = (
        select(Job.id, Job.failed + Job.settled_batches)
        .where(Job.finished_at < func.now() - older_than, _is_over())
        .order_by(Job.finished_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    with db.begin() as session:
        # A job may have more dead letters than can be deleted in the time that a statement has.
        session.execute(text("SET LOCAL statement_timeout = 0"))
        found = session.execute(old).all()
        before = accumulate((rows for _, rows in found), initial=0)
        ids = [job_id for (job_id, _), rows in zip(found, before, strict=False) if rows < MOST_ROWS]
        if ids:
            _note_leftovers(session, ids, older_than)
            # Batches, events, segments, dead letters and deliveries go with it.
            session.execute(delete(Job).where(Job.id.in_(ids)))
        return len(ids)


def _is_over() -> ColumnElement[bool]:
    """Whether a job is finished, and nothing of it is still to be worked on, sent or watched.

    A finished job has no open batch. The query checks that again, because nothing can bring back
    a deleted row.
    """
    of_job = Batch.job_id == Job.id
    watched = (text("batches.spent_file_ids <> '[]'"), Batch.finished_at > func.now() - WATCHED)
    return (
        Job.state.in_(_FINISHED)
        & Job.lease.is_(None)
        & ~select(Batch.id)
        .where(of_job, or_(Batch.finished_at.is_(None), Batch.lease.is_not(None)))
        .exists()
        # Under a file that was given up a batch may still turn up, to be cancelled.
        & ~select(Batch.id).where(of_job, *watched).exists()
        & ~select(Delivery.id)
        .where(Delivery.job_id == Job.id, Delivery.delivered_at.is_(None))
        .where(Delivery.parked_at.is_(None))
        .exists()
    )


def _note_leftovers(session: Session, ids: Sequence[UUID], older_than: timedelta) -> None:
    """One for the blobs of each job, and one for each file at Together.

    The id is free again, and a producer may come with it before the old blobs are deleted. What is
    younger than half of the time since the job's end is not the old job's.
    """
    session.execute(
        insert(Leftover).from_select(
            ["name", "written_before"],
            select(
                func.concat("jobs/", Job.id, "/"),
                Job.finished_at + older_than / 2,
            ).where(Job.id.in_(ids)),
        )
    )
    named = func.unnest(array([Batch.input_file_id, Batch.output_file_id, Batch.error_file_id]))
    spent = func.jsonb_array_elements_text(Batch.spent_file_ids)
    files = union(
        *(
            select(Batch.account, file_id.label("name")).where(Batch.job_id.in_(ids))
            for file_id in (named, spent)
        )
    ).subquery()
    session.execute(
        insert(Leftover).from_select(
            ["account", "name"],
            select(files.c.account, files.c.name).where(files.c.name.is_not(None)),
        )
    )
