"""Searching jobs, newest first: what no index finds is looked for a stretch at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, tuple_
from sqlalchemy.orm import Session, aliased

from service.rules.states import JobState, LaneState, PartState
from service.store.engine import Database
from service.store.lanes import lane_of
from service.store.models import Account, Batch, Job, Lane, Part, Producer

STRETCH = 5_000
"""The jobs that one search looks at for what has no index. The next page goes on behind them."""

Place = tuple[datetime, UUID]
"""A place in the list: (created_at, id)."""


class Waiting(StrEnum):
    """What a job that is not finished waits for."""

    PARKED = "parked"
    HELD = "held"
    DEADLINE = "deadline"
    """Its deadline is missed, or will be by its forecast."""
    ACCOUNT = "account"
    LANE = "lane"
    BUDGET = "budget"
    COST = "max_cost"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What jobs must be like. `failed` is the least and the most of their failed requests."""

    producer: str | None = None
    states: Sequence[JobState] = ()
    marks: Sequence[Mapping[str, Any]] = ()
    models: Sequence[str] | None = None
    """Some of their requests are for one of these; None for any."""
    account: str | None = None
    failed: tuple[int, int | None] | None = None
    total: tuple[int, int | None] | None = None
    waiting: Sequence[Waiting] = ()
    created_from: datetime | None = None
    created_before: datetime | None = None
    calls: bool = False
    id_begins: str | None = None


@dataclass(frozen=True)
class Found:
    """A page of jobs. `goes_on` is where the next one begins, None if there is no more.

    `looked_to` is how far back the search has looked, if it stopped before the page was full.
    """

    jobs: Sequence[Job]
    goes_on: Place | None
    looked_to: datetime | None = None


def search(db: Database, asked: Asked, *, before: Place | None, limit: int) -> Found:
    """Return jobs that are as asked, newest first, from a place on."""
    plain = _plain(asked)
    if before is not None:
        plain = plain.where(tuple_(Job.created_at, Job.id) < before)
    newest = (Job.created_at.desc(), Job.id.desc())
    with db.begin() as session:
        if not _costly(asked, Job):
            return _page(session.scalars(plain.order_by(*newest).limit(limit + 1)).all(), limit)
        stretch = plain.order_by(*newest).limit(STRETCH).subquery("stretch")
        row = aliased(Job, stretch)
        within = select(row).where(*_costly(asked, row))
        order = (row.created_at.desc(), row.id.desc())
        found = session.scalars(within.order_by(*order).limit(limit + 1)).all()
        if len(found) > limit:
            return _page(found, limit)
        if asked.marks:
            # Rare ones are found by their index, however far back they are.
            rare = plain.where(*_costly(asked, Job)).cte("rare").prefix_with("MATERIALIZED")
            one = aliased(Job, rare)
            order = (one.created_at.desc(), one.id.desc())
            return _page(
                session.scalars(select(one).order_by(*order).limit(limit + 1)).all(), limit
            )
        return Found(found, *_end_of(session, plain, newest))


def _page(found: Sequence[Job], limit: int) -> Found:
    rows = found[:limit]
    more = len(found) > limit
    return Found(rows, (rows[-1].created_at, rows[-1].id) if more else None)


def _end_of(
    session: Session, plain: Select[Job], newest: Sequence[Any]
) -> tuple[Place | None, datetime | None]:
    """Return where a stretch ended that was looked at, if more follows."""
    places = plain.with_only_columns(Job.created_at, Job.id).order_by(*newest)
    last = session.execute(places.offset(STRETCH - 1).limit(1)).one_or_none()
    return (None, None) if last is None else ((last.created_at, last.id), last.created_at)


def _plain(asked: Asked) -> Select[Job]:
    """Return the query of what indexes find."""
    query = select(Job)
    if asked.id_begins is None:
        query = query.where(Job.is_call.is_(asked.calls))
    else:
        first, last = (UUID(asked.id_begins.ljust(32, digit)) for digit in "0f")
        few = select(Job).where(Job.id.between(first, last)).cte("few")
        query = query.where(Job.id.in_(select(few.c.id)))
    if asked.producer is not None:
        query = query.where(Job.producer == asked.producer)
    if asked.states:
        query = query.where(Job.state.in_(asked.states))
    if asked.created_from is not None:
        query = query.where(Job.created_at >= asked.created_from)
    if asked.created_before is not None:
        query = query.where(Job.created_at < asked.created_before)
    for one in asked.waiting:
        if one in _INDEXED:
            query = query.where(Job.finished_at.is_(None), _INDEXED[one])
    if set(asked.waiting) - set(_INDEXED) and not asked.states:
        query = query.where(Job.state.in_((JobState.ACCEPTED, JobState.RUNNING)))
    return query


_PARKED_TRAVEL = (
    select(Part.job_id)
    .join(Batch, Batch.id == Part.batch_id)
    .where(Batch.parked_at.is_not(None), Batch.finished_at.is_(None))
)
_INDEXED: dict[Waiting, ColumnElement[bool]] = {
    Waiting.PARKED: or_(Job.parked_at.is_not(None), Job.id.in_(_PARKED_TRAVEL)),
    Waiting.HELD: Job.held_at.is_not(None),
    Waiting.DEADLINE: and_(
        Job.deadline_look_at.is_not(None),
        or_(Job.deadline_at_risk_since.is_not(None), Job.deadline_missed_at.is_not(None)),
    ),
}


def _costly(asked: Asked, row: type[Job]) -> list[ColumnElement[bool]]:
    """Return what each job must be looked at for."""
    found = [row.labels.contains(mark) for mark in asked.marks]
    if asked.account is not None:
        found.append(row.account == asked.account)
    for bounds, column in ((asked.failed, row.failed), (asked.total, row.total)):
        if bounds is not None:
            found.append(column >= bounds[0])
            if bounds[1] is not None:
                found.append(column <= bounds[1])
    if asked.models is not None:
        of_job = select(Part.id).where(Part.job_id == row.id, Part.model.in_(asked.models))
        found.append(of_job.exists())
    found.extend(_waits(one, row) for one in asked.waiting if one not in _INDEXED)
    return found


def _waits(one: Waiting, row: type[Job]) -> ColumnElement[bool]:
    match one:
        case Waiting.COST:
            return row.short_reason.is_not(None)
        case Waiting.BUDGET:
            short = select(Producer.name).where(Producer.short_until > func.now())
            return row.producer.in_(short)
        case Waiting.ACCOUNT:
            paused = select(Account.name).where(Account.paused_until > func.now())
            return row.account.in_(paused)
        case _:
            stopped = or_(
                Lane.paused_at.is_not(None),
                Lane.state != LaneState.HEALTHY,
                Lane.held_until > func.now(),
            )
            return (
                select(Part.id)
                .join(Lane, lane_of(Part))
                .where(Part.job_id == row.id, Part.state == PartState.WAITING, stopped)
                .exists()
            )


def models_of(db: Database, ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return a model of each of some jobs: of most jobs, the only one."""
    some = select(Part.model).where(Part.job_id == Job.id).limit(1).correlate(Job).scalar_subquery()
    with db.begin() as session:
        rows = session.execute(select(Job.id, some.label("model")).where(Job.id.in_(ids)))
        return {row.id: row.model for row in rows if row.model is not None}


def known_models(db: Database) -> list[str]:
    """Return the models that anything was ever sent to."""
    with db.begin() as session:
        return list(session.scalars(select(Lane.model).distinct().order_by(Lane.model).limit(1000)))


def known_producers(db: Database, begins: str, limit: int) -> list[str]:
    """Return names of producers that begin so."""
    query = select(Producer.name).where(Producer.name.startswith(begins, autoescape=True))
    with db.begin() as session:
        return list(session.scalars(query.order_by(Producer.name).limit(limit)))


def known_marks(db: Database, producer: str | None, newest: int) -> list[dict[str, Any]]:
    """Return the metadata of the newest jobs."""
    query = select(Job.labels).where(Job.is_call.is_(False))
    if producer is not None:
        query = query.where(Job.producer == producer)
    with db.begin() as session:
        return list(
            session.scalars(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(newest))
        )
