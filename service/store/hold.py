"""Holding the rest of a job until its canary is back, and letting it go."""

from collections.abc import Mapping
from decimal import Decimal
from uuid import UUID

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from service.rules.canary import HELD_UNTIL, Fate, Held, fate
from service.rules.errors import Conflict
from service.rules.notices import NoticeEvent
from service.rules.prices import written
from service.rules.states import PartState
from service.store.audit import Actor, path, record
from service.store.engine import Database
from service.store.models import Event, Job, Part
from service.store.notices import announce_event


def judge_canary(session: Session, job: Job) -> None:
    """Let the rest of a job go, or hold it for a decision, if its canary leaves no doubt.

    The caller has locked the job, and counted what has just settled.
    """
    if job.held is not Held.CANARY or job.held_at is not None or job.canary is None:
        return
    if job.cancel_requested_at is not None:
        return
    most = job.canary_failures or 0
    found = fate(job.canary, most, succeeded=job.succeeded, failed=job.failed)
    counts = {"canary": job.canary, "succeeded": job.succeeded, "failed": job.failed}
    match found:
        case Fate.GOES:
            _let_go(session, job, counts)
        case Fate.STAYS:
            job.held_at = func.now()
            session.add(Event(job_id=job.id, source=job.state, target="held", detail=counts))
            announce_event(session, job, NoticeEvent.HELD)


def release(
    db: Database,
    job_id: UUID,
    *,
    max_cost: Decimal | None = None,
    operator: Actor | None = None,
) -> None:
    """Let what is held of a job go, whatever its canary says, or give it a new `max_cost`.

    What an operator does goes into the audit log. Raises Conflict if nothing is held.
    """
    with db.begin() as session:
        job = session.scalars(
            select(Job).where(Job.id == job_id).with_for_update(key_share=True)
        ).one_or_none()
        if job is None:
            raise Conflict("the job was forgotten just now")
        if job.finished_at is not None or job.cancel_requested_at is not None:
            raise Conflict("nothing of the job is held")
        before = {"held": job.held, "max_cost": _written(job.max_cost)}
        if max_cost is not None:
            job.max_cost, job.short_reason = max_cost, None
            _hurry(session, job)
        elif job.held is not None:
            _let_go(session, job, {"asked": True})
        elif job.short_reason is not None:
            raise Conflict("only its `max_cost` holds the job; release it with a higher one")
        else:
            raise Conflict("nothing of the job is held")
        if operator is not None:
            after = {"held": job.held, "max_cost": _written(job.max_cost)}
            record(session, operator, "release", path("jobs", job_id), before=before, after=after)


def _written(cost: Decimal | None) -> str | None:
    return None if cost is None else written(cost)


def _let_go(session: Session, job: Job, detail: Mapping[str, object]) -> None:
    job.held = job.held_at = None
    session.add(Event(job_id=job.id, source=job.state, target="released", detail=dict(detail)))
    session.flush()
    _make_ready(session, job, Part.ready_at == HELD_UNTIL)


def _hurry(session: Session, job: Job) -> None:
    """Let parts that have cost too much be looked at again now."""
    session.flush()
    _make_ready(session, job, Part.ready_at < HELD_UNTIL, Part.attempt == 1)


def _make_ready(session: Session, job: Job, *which: ColumnElement[bool]) -> None:
    held = (
        select(Part.id)
        .where(Part.job_id == job.id, Part.state == PartState.WAITING, *which)
        .order_by(Part.id)
        .with_for_update()
        .cte("held")
    )
    session.execute(
        update(Part)
        .where(Part.id == held.c.id)
        .values(ready_at=func.now())
        .execution_options(synchronize_session=False)
    )
