"""Deadlines: looking at the jobs that have one, and telling when one is at risk or missed.

Only jobs with a deadline that are not finished are looked at, along an index of their own.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import case, func, select, text
from sqlalchemy.orm import Session

from service.rules.deadlines import OnDeadline, Standing, deadline_at, looked, pause
from service.rules.forecast import Forecast
from service.rules.notices import NoticeEvent
from service.rules.spec import Spec
from service.rules.states import JobState
from service.store.engine import Database
from service.store.forecasts import of_jobs
from service.store.models import Event, Job, Producer
from service.store.notices import announce_event

AT_ONCE = 200
"""The most jobs that are looked at in one transaction."""

Forecasts = Callable[[Session, Sequence[Job]], Mapping[UUID, datetime]]
"""The instants by which jobs end with 90 %, of those of which that can be said."""


def deadline_of(spec: Spec, submitted: datetime) -> dict[str, Any]:
    """Return the columns of a new job that its deadline fills."""
    if spec.deadline is None:
        return {"deadline": None, "on_deadline": None, "deadline_look_at": None}
    return {
        "deadline": deadline_at(spec.deadline, submitted),
        "on_deadline": spec.on_deadline or OnDeadline.REPORT,
        "deadline_look_at": submitted,
    }


def close_deadline(session: Session, job: Job) -> None:
    """Stop looking at a job that has just ended, and tell if it was completed too late."""
    if job.deadline is None or job.deadline_look_at is None:
        return
    job.deadline_look_at = job.raised_priority = None
    if job.state is not JobState.COMPLETED or job.deadline_missed_at is not None:
        return
    with session.no_autoflush:
        now = session.scalars(select(func.now())).one()
    if now > job.deadline:
        job.deadline_missed_at = now
        _tell(session, job, NoticeEvent.MISSED, {})


def reopen_deadline(job: Job) -> None:
    """Look again at a job whose failed requests are retried, unless its deadline is over."""
    if job.deadline is not None:
        job.deadline_look_at = case((func.now() < job.deadline, func.now()), else_=None)
        job.deadline_at_risk_since = None


_DUE = (
    select(Job, Producer.highest_priority, func.now())
    .join(Producer, Producer.name == Job.producer)
    .where(Job.deadline_look_at <= func.now())
    .order_by(Job.deadline_look_at)
    .limit(AT_ONCE)
    # Not waited for: a job that is being written to is looked at the next time.
    .with_for_update(of=Job, skip_locked=True, key_share=True)
)

# What travels keeps its priority. A company goes as one, whatever the priorities of its jobs.
_GIVE_PRIORITY = text("""
WITH waiting AS (
  SELECT id FROM haulier.parts
  WHERE job_id = :job AND state = 'waiting' AND priority <> :priority AND company IS NULL
  ORDER BY id FOR UPDATE SKIP LOCKED)
UPDATE haulier.parts p SET priority = :priority FROM waiting WHERE p.id = waiting.id
""")


def _likely(session: Session, jobs: Sequence[Job]) -> Mapping[UUID, datetime]:
    found = of_jobs(session, [job.id for job in jobs])
    return {job_id: one.p90 for job_id, one in found.items() if isinstance(one, Forecast)}


def look(db: Database, forecasts: Forecasts = _likely) -> int:
    """Look at the jobs with deadlines that are due for it. Return how many they were."""
    with db.begin() as session:
        rows = session.execute(_DUE).all()
        if not rows:
            return 0
        likely = forecasts(session, [job for job, *_ in rows])
        for job, highest, now in rows:
            _look_at(session, job, highest, now, likely.get(job.id))
        return len(rows)


def _look_at(
    session: Session, job: Job, highest: int, now: datetime, likely_by: datetime | None
) -> None:
    before = _standing(job, highest)
    after = looked(before, now, likely_by)
    job.deadline_look_at = now + pause(after, now)
    job.deadline_missed_at = after.missed_at
    job.deadline_at_risk_since = after.at_risk_since
    job.raised_priority = after.raised
    said = {} if likely_by is None else {"likely_by": likely_by.isoformat()}
    if after.missed_at != before.missed_at:
        _tell(session, job, NoticeEvent.MISSED, said)
    elif after.at_risk_since is None and before.at_risk_since is not None:
        _log(session, job, "deadline_safe", said)
    elif after.at_risk_since != before.at_risk_since:
        _tell(session, job, NoticeEvent.AT_RISK, said)
    if after.raised != before.raised:
        _log(session, job, "priority_changed", {"priority": _priority(job), **said})
    if after.raised is not None or before.raised is not None:
        # Each time: what comes back and goes again has the priority with which it went.
        session.execute(_GIVE_PRIORITY, {"job": job.id, "priority": _priority(job)})


def _priority(job: Job) -> int:
    return job.priority if job.raised_priority is None else job.raised_priority


def _standing(job: Job, highest: int) -> Standing:
    assert job.deadline is not None
    return Standing(
        deadline=job.deadline,
        on_deadline=job.on_deadline or OnDeadline.REPORT,
        submitted=job.created_at,
        asked=job.priority,
        highest=highest,
        raised=job.raised_priority,
        at_risk_since=job.deadline_at_risk_since,
        missed_at=job.deadline_missed_at,
    )


def _tell(session: Session, job: Job, event: NoticeEvent, detail: Mapping[str, Any]) -> None:
    _log(session, job, event.value.removeprefix("job."), detail)
    announce_event(session, job, event)


def _log(session: Session, job: Job, target: str, detail: Mapping[str, Any]) -> None:
    assert job.deadline is not None
    said = {"deadline": job.deadline.isoformat(), **detail}
    session.add(Event(job_id=job.id, source=job.state, target=target, detail=said))
