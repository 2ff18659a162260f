"""Reading jobs, parts, batches, events and results. Nothing here writes."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, tuple_, union_all
from sqlalchemy.orm import Session, aliased

from service.rules.states import OPEN_BATCH_STATES, BatchState, JobState
from service.rules.work import Segment as SegmentPlace
from service.store.engine import Database
from service.store.models import Batch, DeadLetter, Event, Job, Part, Segment


def job(db: Database, job_id: UUID, producer: str | None) -> Job | None:
    """Return a job if it belongs to the producer; with None, whoever it belongs to."""
    with db.begin() as session:
        found = session.get(Job, job_id)
        return found if found is not None and producer in {None, found.producer} else None


def check_of(db: Database, job_id: UUID) -> Any:
    """Return what every answer of a job must pass, as its spec has it; None for no check."""
    with db.begin() as session:
        return session.scalar(select(Job.answer_check).where(Job.id == job_id))


def jobs_by_id(db: Database, ids: Collection[UUID]) -> dict[UUID, Job]:
    """Return those of the jobs that exist, by id."""
    with db.begin() as session:
        return {found.id: found for found in session.scalars(select(Job).where(Job.id.in_(ids)))}


def jobs(
    db: Database,
    *,
    producer: str | None,
    states: Sequence[JobState] = (),
    marks: Sequence[Mapping[str, Any]] = (),
    created_from: datetime | None = None,
    created_before: datetime | None = None,
    before: tuple[datetime, UUID] | None = None,
    calls: bool = False,
    id_begins: str | None = None,
    limit: int,
) -> list[Job]:
    """Jobs, newest first. `before` is where the last page ended: (created_at, id).

    `marks` are what their metadata contains, as JSON objects. Calls have lists of their own, but
    are found by the first hexadecimal digits of their ids (`id_begins`).
    """
    query = select(Job)
    if id_begins is None:
        query = query.where(Job.is_call.is_(calls))
    else:
        first, last = (UUID(id_begins.ljust(32, digit)) for digit in "0f")
        # By the key, whatever order is asked for: only few begin so.
        few = select(Job).where(Job.id.between(first, last)).cte("few")
        query = select(Job).where(Job.id.in_(select(few.c.id)))
    if producer is not None:
        query = query.where(Job.producer == producer)
    if states:
        query = query.where(Job.state.in_(states))
    if created_from is not None:
        query = query.where(Job.created_at >= created_from)
    if created_before is not None:
        query = query.where(Job.created_at < created_before)
    if before is not None:
        query = query.where(tuple_(Job.created_at, Job.id) < before)
    newest = (Job.created_at.desc(), Job.id.desc())
    with db.begin() as session:
        if not marks:
            return list(session.scalars(query.order_by(*newest).limit(limit)))
        # Common marks are on the newest jobs; rare ones are found by their index. Left to guess,
        # Postgres would walk through all jobs for the rare, or put all in order for the common.
        recent = aliased(Job, query.order_by(*newest).limit(2 * limit).subquery("recent"))
        common = list(session.scalars(_marked(recent, marks).limit(limit)))
        if len(common) == limit:
            return common
        wanted = query.where(*(Job.labels.contains(mark) for mark in marks))
        rare = aliased(Job, wanted.cte("found").prefix_with("MATERIALIZED"))
        return list(session.scalars(_marked(rare, ()).limit(limit)))


def _marked(row: type[Job], marks: Sequence[Mapping[str, Any]]) -> Select[Job]:
    having = select(row).where(*(row.labels.contains(mark) for mark in marks))
    return having.order_by(row.created_at.desc(), row.id.desc())


def parts(
    db: Database, job_id: UUID, *, after: tuple[int, datetime, UUID] | None, limit: int
) -> list[tuple[Part, Batch | None]]:
    """A job's parts with their batches, by shard, oldest first.

    `after` is where the last page ended: (shard, created_at, id).
    """
    order = (Part.shard, Part.created_at, Part.id)
    query = (
        select(Part, Batch)
        .outerjoin(Batch, Batch.id == Part.batch_id)
        .where(Part.job_id == job_id)
        .order_by(*order)
        .limit(limit)
    )
    if after is not None:
        query = query.where(tuple_(*order) > after)
    with db.begin() as session:
        return [(part, batch) for part, batch in session.execute(query)]


def events(db: Database, job_id: UUID, *, after: int, limit: int) -> list[Event]:
    """Return events with ids above `after`: a job's, and those of the batches it has parts in."""
    newer = select(Event).where(Event.id > after).order_by(Event.id).limit(limit)
    own = newer.where(Event.job_id == job_id)
    in_batches = select(Part.batch_id).where(Part.job_id == job_id)
    of_batches = newer.where(Event.job_id.is_(None), Event.batch_id.in_(in_batches))
    found = union_all(select(own.subquery()), select(of_batches.subquery())).subquery()
    event = aliased(Event, found)
    with db.begin() as session:
        return list(session.scalars(select(event).order_by(event.id).limit(limit)))


def failures(db: Database, job_id: UUID, *, after: int, limit: int) -> list[DeadLetter]:
    """Return a job's dead letters in input order, with ordinals above `after`."""
    query = select(DeadLetter).where(DeadLetter.job_id == job_id, DeadLetter.ordinal > after)
    with db.begin() as session:
        return list(session.scalars(query.order_by(DeadLetter.ordinal).limit(limit)))


def segments(db: Database, job_id: UUID, generation: int) -> tuple[SegmentPlace, ...]:
    """Return the segments of one generation of a job's results, in input order."""
    with db.begin() as session:
        return segments_of(session, job_id, generation)


def segments_of(session: Session, job_id: UUID, generation: int) -> tuple[SegmentPlace, ...]:
    """The same, in a transaction of the caller's."""
    rows = session.scalars(
        select(Segment)
        .where(Segment.job_id == job_id, Segment.generation == generation)
        .order_by(Segment.position)
    )
    return tuple(
        SegmentPlace(
            blob=row.blob, index_blob=row.index_blob, bytes=row.bytes, requests=row.requests
        )
        for row in rows
    )


def open_batches(db: Database) -> dict[BatchState, int]:
    """Count the batches under way by state, without parked ones."""
    with db.begin() as session:
        rows = session.execute(
            select(Batch.state, func.count())
            .where(Batch.parked_at.is_(None), Batch.state.in_(OPEN_BATCH_STATES))
            .group_by(Batch.state)
        )
        return dict(rows.all())
