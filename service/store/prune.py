"""Prune old jobs: delete their rows, and note what is still to be deleted elsewhere."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import accumulate
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Uuid,
    and_,
    any_,
    cast,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    union,
)
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session

from service.rules.states import JobState
from service.store.engine import Database
from service.store.leftovers import WATCHED
from service.store.models import Batch, Delivery, Job, Leftover, Part

MOST_ROWS = 50_000
"""About how many rows one transaction deletes; a job with more goes alone."""

_FINISHED = (JobState.COMPLETED, JobState.CANCELLED, JobState.REJECTED, JobState.FAILED)


def prune_jobs(db: Database, *, older_than: timedelta, limit: int, calls: bool = False) -> int:
    """Delete at most `limit` jobs, or calls, that ended longer than `older_than` ago, oldest first.

    One transaction notes what the jobs leave in blob storage and at Together as leftovers, and
    deletes their rows. Returns the number of jobs deleted; 0 when none are left.
    """
    old = (
        select(Job.id, Job.failed + Job.settled_parts)
        .where(Job.finished_at < func.now() - older_than, _is_over(), Job.is_call.is_(calls))
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
            batches = _batches_of(session, ids)
            _note_blobs(session, ids, older_than)
            # Parts, events, segments, dead letters and deliveries go with it.
            session.execute(delete(Job).where(Job.id.in_(ids)))
            _prune_batches(session, batches, older_than)
        return len(ids)


def _batches_of(session: Session, ids: Sequence[UUID]) -> Sequence[UUID]:
    """Lock and return the batches of jobs, so that of two jobs that share one the later finds out
    that it was the last."""
    shared = select(Part.batch_id).where(Part.job_id.in_(ids))
    batches = select(Batch.id).where(Batch.id.in_(shared)).order_by(Batch.id).with_for_update()
    return session.scalars(batches).all()


def _prune_batches(session: Session, ids: Sequence[UUID], older_than: timedelta) -> None:
    """Delete those of the batches of which no part is left, and note their blobs and files."""
    among = any_(cast(list(ids), ARRAY(Uuid)))
    has_parts = select(Part.id).where(Part.batch_id == Batch.id).exists()
    left = session.scalars(select(Batch.id).where(Batch.id == among, ~has_parts)).all()
    if not left:
        return
    session.execute(
        insert(Leftover).from_select(
            ["name", "written_before"],
            select(
                func.concat("batches/", Batch.id, "/"), Batch.finished_at + older_than / 2
            ).where(Batch.id.in_(left)),
        )
    )
    _note_files(session, left)
    # Their events go with them.
    session.execute(delete(Batch).where(Batch.id.in_(left)))


def _is_over() -> ColumnElement[bool]:
    """Whether a job is finished, and nothing of it is still to be worked on, sent or watched.

    A finished job has no open batch. The query checks that again, because nothing can bring back
    a deleted row.
    """
    of_job = and_(Part.batch_id == Batch.id, Part.job_id == Job.id)
    watched = (text("batches.spent_file_ids <> '[]'"), Batch.finished_at > func.now() - WATCHED)
    return (
        Job.state.in_(_FINISHED)
        & Job.lease.is_(None)
        & ~select(Batch.id)
        .where(of_job, or_(Batch.finished_at.is_(None), Batch.lease.is_not(None)))
        .correlate(Job)
        .exists()
        # Under a file that was given up a batch may still turn up, to be cancelled.
        & ~select(Batch.id).where(of_job, *watched).correlate(Job).exists()
        & ~select(Delivery.id)
        .where(Delivery.job_id == Job.id, Delivery.delivered_at.is_(None))
        .where(Delivery.parked_at.is_(None))
        .exists()
    )


def _note_blobs(session: Session, ids: Sequence[UUID], older_than: timedelta) -> None:
    """Note the blobs of each job.

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


def _note_files(session: Session, ids: Sequence[UUID]) -> None:
    """Note each file of batches at Together."""
    named = func.unnest(array([Batch.input_file_id, Batch.output_file_id, Batch.error_file_id]))
    spent = func.jsonb_array_elements_text(Batch.spent_file_ids)
    files = union(
        *(
            select(Batch.account, file_id.label("name")).where(Batch.id.in_(ids))
            for file_id in (named, spent)
        )
    ).subquery()
    session.execute(
        insert(Leftover).from_select(
            ["account", "name"],
            select(files.c.account, files.c.name).where(files.c.name.is_not(None)),
        )
    )
