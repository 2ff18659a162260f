"""The health of lanes: what batches say of them, and what operators decide."""

from datetime import datetime, timedelta
from typing import Any

import structlog
from msgspec import convert, to_builtins
from msgspec.structs import replace
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.alike import alike
from service.rules.lanes import KEPT_JOBS, Failure, Health, Seen, Signs, Trouble, observe
from service.rules.states import LaneState, PartState
from service.store.lanes import lane_of
from service.store.models import Batch, Lane, Part

log = structlog.get_logger()

FIRST_REST = timedelta(seconds=60)


def health_of(lane: Lane | None) -> Health:
    """Return a lane's health. What has a column of its own is read from there."""
    if lane is None or not lane.health:
        return Health()
    health = convert(lane.health, Health)
    return replace(health, state=lane.state, since=lane.since, until=lane.until)


def write(session: Session, lane: Lane, new: Health) -> None:
    """Write the health of a lane whose row is locked, and log a move."""
    old = health_of(lane)
    if new == old:
        return
    lane.state, lane.since, lane.until = new.state, new.since, new.until
    lane.health = _stored(new)
    if new.state is old.state and new.phase is old.phase:
        return
    evidence = new.evidence
    log.log(
        *LOGGED[new.state],
        account=lane.account,
        endpoint=lane.endpoint,
        model=lane.model,
        phase=new.phase and str(new.phase),
        until=new.until and new.until.isoformat(),
        rests=new.rests,
        failed=evidence and str(evidence.kind),
        text=evidence and evidence.text,
    )
    if new.state is not LaneState.RESTING:
        _hurry(session, lane)


LOGGED = {
    LaneState.HEALTHY: (20, "lane_healthy"),
    LaneState.PROBING: (20, "lane_probing"),
    LaneState.RESTING: (30, "lane_resting"),
}
"""The level and the event of a lane that comes to a state."""


def _stored(health: Health) -> dict[str, Any]:
    built = to_builtins(health, str_keys=True)
    return dict(built)


def _hurry(session: Session, lane: Lane) -> None:
    """Let what pauses only because of the lane be ready: the lane itself decides what goes."""
    # Not waited for: whoever has a part may wait for the lane's row.
    paused = (
        select(Part.id)
        .where(Part.state == PartState.WAITING, Part.outage_since.is_not(None))
        .where(Part.account == lane.account, Part.endpoint == lane.endpoint)
        .where(Part.model == lane.model, Part.ready_at > func.now())
        .with_for_update(skip_locked=True)
        .cte("paused")
    )
    session.execute(
        update(Part)
        .where(Part.id.in_(select(paused.c.id)))
        .values(ready_at=func.now(), patient_until=func.now())
        .execution_options(synchronize_session=False)
    )


def note_end(session: Session, batch: Batch, signs: Signs | None, rest: timedelta) -> None:
    """Take in what the end of a batch says of its lane."""
    if signs is None and batch.probe is None:
        return
    _note(session, batch, signs or Signs(), rest)


def note_create(session: Session, batch: Batch, error: str | None, rest: timedelta) -> None:
    """Take in that a create failed with a transient error, or passed."""
    if error is None:
        _note(session, batch, Signs(), rest, created=True)
        return
    jobs = session.scalars(
        select(Part.job_id).where(Part.batch_id == batch.id).distinct().limit(KEPT_JOBS)
    ).all()
    signs = Signs(
        jobs=tuple(jobs), trouble=Trouble.CREATES, text=alike(error), lines=batch.requests
    )
    _note(session, batch, signs, rest)


def _note(
    session: Session, batch: Batch, signs: Signs, rest: timedelta, *, created: bool = False
) -> None:
    session.flush()
    lane, now = _read(session, batch)
    seen = _seen(batch, signs, now, created=created)
    if not _matters(health_of(lane), seen, rest):
        return
    if lane is None:
        session.execute(
            insert(Lane)
            .values(account=batch.account, endpoint=batch.endpoint, model=batch.model)
            .on_conflict_do_nothing()
        )
    locked = session.scalars(
        select(Lane)
        .where(lane_of(batch))
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()
    write(session, locked, observe(health_of(locked), seen, rest))


def _read(session: Session, batch: Batch) -> tuple[Lane | None, datetime]:
    found = session.execute(
        select(Lane, func.now()).where(lane_of(batch)).execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        return None, session.scalars(select(func.now())).one()
    return found[0], found[1]


def _matters(health: Health, seen: Seen, rest: timedelta) -> bool:
    """Whether it may change anything. What is true of nearly every batch must not cost a lock."""
    if seen.failure is not None or not health.is_healthy or health.failures:
        return True
    if seen.created or not seen.well:
        return False
    if not set(health.offences).isdisjoint(seen.jobs):
        return True
    last = health.served.get(seen.producer)
    return last is None or seen.at - last > rest


def _seen(batch: Batch, signs: Signs, now: datetime, *, created: bool) -> Seen:
    failure = None
    if signs.trouble is not None and signs.jobs:
        failure = Failure(
            batch=batch.id,
            at=now,
            kind=signs.trouble,
            text=signs.text,
            lines=signs.lines,
            producer=batch.producer,
            jobs=signs.jobs,
        )
    return Seen(
        at=now,
        sent_at=batch.submitted_at or batch.created_at,
        producer=batch.producer,
        jobs=signs.jobs,
        well=signs.well,
        failure=failure,
        probe=batch.probe is not None,
        created=created,
    )


def waiting_requests(session: Session, lane: Lane) -> int:
    """Return how many requests wait to be admitted to a lane."""
    total = session.scalar(
        select(func.sum(Part.requests))
        .where(Part.state == PartState.WAITING, Part.account == lane.account)
        .where(Part.endpoint == lane.endpoint, Part.model == lane.model)
    )
    return int(total or 0)
