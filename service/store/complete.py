"""Ending a job: at once where its parts' results are in order, else after they are merged."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ARRAY, Uuid, any_, cast, func, select
from sqlalchemy.orm import Session

from service.payloads.results import in_order
from service.rules.states import JobState
from service.rules.work import FinalLines
from service.rules.work import Segment as SegmentPlace
from service.store.models import Job, Part, Segment
from service.store.moves import move_job


def complete(session: Session, job: Job, segments: Sequence[SegmentPlace]) -> None:
    """Move a job whose requests are all accounted for to its end, with these results."""
    job.generation += 1
    session.add_all(
        Segment(
            job_id=job.id,
            generation=job.generation,
            position=position,
            blob=segment.blob,
            index_blob=segment.index_blob,
            bytes=segment.bytes,
            requests=segment.requests,
        )
        for position, segment in enumerate(segments)
    )
    job.finished_at = func.now()
    cancelled = job.cancel_requested_at is not None
    move_job(
        session,
        job,
        JobState.CANCELLED if cancelled else JobState.COMPLETED,
        succeeded=job.succeeded,
        failed=job.failed,
        generation=job.generation,
    )


def end_jobs(session: Session, jobs: Collection[Job]) -> None:
    """End those of the jobs that have no open part; what must be merged first is due for that."""
    done = [job for job in jobs if job.open_parts == 0]
    if not done:
        return
    session.flush()
    lines = settled_lines(session, [job.id for job in done])
    for job in done:
        segments = in_order(lines[job.id])
        if segments is None:
            job.not_before = func.now()
        else:
            complete(session, job, segments)


def settled_lines(session: Session, job_ids: Sequence[UUID]) -> dict[UUID, list[FinalLines]]:
    """Return the final lines of jobs so far, in the order in which their parts settled."""
    rows = (
        select(Part.job_id, Part.final_lines)
        .where(Part.job_id == any_(cast(list(job_ids), ARRAY(Uuid))))
        .where(Part.final_lines.is_not(None))
        .order_by(Part.job_id, Part.settle_order)
    )
    found: defaultdict[UUID, list[FinalLines]] = defaultdict(list)
    for job_id, lines in session.execute(rows):
        found[job_id].append(_read(lines))
    return found


def _read(lines: Any) -> FinalLines:
    return msgspec.convert(lines, FinalLines)
