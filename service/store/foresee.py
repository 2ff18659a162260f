"""Making forecasts: a look now and then, which costs no more than its bounds, whatever there is.

Nothing waits for it, and it waits for nobody: what others have locked is left for the next look.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.admission import LaneName
from service.rules.forecast import (
    HISTORY,
    Experience,
    Forecast,
    Kind,
    Past,
    ahead,
    corrected,
    half_time,
)
from service.store.engine import Database
from service.store.models import Coverage, JobForecast

MOST = 200
"""Jobs that one look takes in, that it looks at again, and twice as many whose end it notes."""
KEPT = 1000
"""How many jobs of a lane are remembered."""
SOON, LATE = timedelta(seconds=2), timedelta(minutes=10)
"""Between two looks at a job."""
FRESH = timedelta(minutes=1)
"""What was first said of a job at such an age, or in the first tenth of its time, was said at its
submission."""


def look(db: Database) -> int:
    """Note which jobs have ended, take in new ones, and renew what is due. Returns how many."""
    with db.begin() as session:
        seen = _note_ends(session)
    with db.begin() as session:
        new = _take_in(session)
    with db.begin() as session:
        return seen + len(new) + _renew(session, new)


# A job in one lane ends with all that there is to do for it; one in several, in each with its last
# part there. What was cancelled or failed says nothing of how long such jobs take.
_ENDED = text("""
WITH over AS (
  SELECT f.id, j.state, CASE
    WHEN (SELECT count(*) FROM haulier.forecasts g WHERE g.job_id = f.job_id) = 1
    THEN j.finished_at
    ELSE coalesce((SELECT max(p.finished_at) FROM haulier.parts p WHERE p.job_id = f.job_id
      AND (p.account, p.endpoint, p.model) = (f.account, f.endpoint, f.model)), j.finished_at)
    END AS at
  FROM haulier.forecasts f JOIN haulier.jobs j ON j.id = f.job_id
  WHERE f.job_id IS NOT NULL AND j.finished_at IS NOT NULL
  LIMIT :most FOR UPDATE OF f SKIP LOCKED
), forgotten AS (
  DELETE FROM haulier.forecasts f USING over
  WHERE f.id = over.id AND over.state <> 'completed'
)
UPDATE haulier.forecasts f SET job_id = NULL, ended_at = greatest(over.at, f.since)
FROM over WHERE f.id = over.id AND over.state = 'completed'
RETURNING f.account, f.endpoint, f.model, f.ended_at, f.said_p90, f.half_p90
""")

_FORGET = text("""
DELETE FROM haulier.forecasts
WHERE account = :account AND endpoint = :endpoint AND model = :model AND ended_at < (
  SELECT ended_at FROM haulier.forecasts
  WHERE account = :account AND endpoint = :endpoint AND model = :model AND ended_at IS NOT NULL
  ORDER BY ended_at DESC OFFSET :kept LIMIT 1)
""")


def _note_ends(session: Session) -> int:
    """Turn jobs that have ended into history, and count whether they did so in time."""
    rows = sorted(session.execute(_ENDED, {"most": 2 * MOST}), key=lambda row: row.ended_at)
    by_lane: defaultdict[LaneName, list[Any]] = defaultdict(list)
    for row in rows:
        by_lane[row.account, row.endpoint, row.model].append(row)
    for lane in sorted(by_lane):
        counted = _coverage(session, lane)
        for row in by_lane[lane]:
            if row.said_p90 is not None:
                in_time = row.ended_at <= row.said_p90
                counted.ended += 1
                counted.in_time += in_time
                counted.stretch = corrected(counted.stretch, in_time=in_time)
            if row.half_p90 is not None:
                in_time = row.ended_at <= row.half_p90
                counted.half_ended += 1
                counted.half_in_time += in_time
                counted.half_stretch = corrected(counted.half_stretch, in_time=in_time)
        session.execute(_FORGET, {**_named(lane), "kept": KEPT})
    return len(rows)


def _coverage(session: Session, lane: LaneName) -> Coverage:
    session.execute(insert(Coverage).values(**_named(lane)).on_conflict_do_nothing())
    return session.get_one(Coverage, lane, with_for_update=True)


def _named(lane: LaneName) -> dict[str, str]:
    return dict(zip(("account", "endpoint", "model"), lane, strict=True))


_NEW = text("""
SELECT j.id, j.producer, j.priority,
  CASE WHEN j.generation = 0 THEN j.created_at ELSE now() END AS since
FROM haulier.jobs j
WHERE j.state = 'running' AND NOT j.is_call AND j.open_parts > 0
  AND NOT EXISTS (SELECT FROM haulier.forecasts f WHERE f.job_id = j.id)
ORDER BY j.created_at DESC LIMIT :most
""")

# What is not to begin before some instant takes its time from then on. What is held has no such.
_OPEN = text("""
SELECT job_id, account, endpoint, model, sum(requests)::bigint AS requests,
  coalesce(sum(requests) FILTER (WHERE state = 'travelling'), 0)::bigint AS travelling,
  min(ready_at) FILTER (WHERE attempt = 1 AND ready_at < now() + interval '1 year') AS ready
FROM haulier.parts WHERE job_id = ANY(:ids) AND state <> 'settled' GROUP BY 1, 2, 3, 4
""")

_BACKLOG = text("""
SELECT priority, producer, sum(requests)::bigint AS requests FROM haulier.parts
WHERE state = 'waiting' AND account = :account AND endpoint = :endpoint AND model = :model
GROUP BY 1, 2
""")

_UNDER_WAY = text("""
SELECT coalesce(sum(requests), 0)::bigint FROM haulier.batches
WHERE account = :account AND endpoint = :endpoint AND model = :model AND parked_at IS NULL
  AND (state IN ('uploaded', 'created') OR (state = 'queued' AND failures = 0))
""")


def _take_in(session: Session) -> set[UUID]:
    """Make rows for jobs that have none. Returns their jobs."""
    jobs = {row.id: row for row in session.execute(_NEW, {"most": MOST})}
    if not jobs:
        return set()
    rows = []
    lines: dict[LaneName, tuple[dict[tuple[int, str], int], int]] = {}
    for part in session.execute(_OPEN, {"ids": list(jobs)}):
        lane = (part.account, part.endpoint, part.model)
        if lane not in lines:
            lines[lane] = _line(session, lane)
        waiting, under_way = lines[lane]
        job = jobs[part.job_id]
        before = ahead(
            waiting,
            max(under_way - part.travelling, 0),
            producer=job.producer,
            priority=job.priority,
            own=part.requests,
        )
        values = {"job_id": job.id, **_named(lane), "requests": part.requests, "ahead": before}
        since = max(job.since, part.ready or job.since)
        rows.append({**values, "since": since, "look_at": func.now()})
    if rows:
        session.execute(insert(JobForecast).values(rows).on_conflict_do_nothing())
    return {row["job_id"] for row in rows}


def _line(session: Session, lane: LaneName) -> tuple[dict[tuple[int, str], int], int]:
    """Return the requests that wait in a lane by priority and producer, and those under way."""
    found = session.execute(_BACKLOG, _named(lane))
    waiting = {(row.priority, row.producer): row.requests for row in found}
    return waiting, int(session.scalar(_UNDER_WAY, _named(lane)) or 0)


def _renew(session: Session, new: Iterable[UUID]) -> int:
    """Forecast anew what is new, and what is due."""
    free = select(JobForecast).with_for_update(skip_locked=True)
    rows = list(session.scalars(free.where(JobForecast.job_id.in_(new)))) if new else []
    due = free.where(JobForecast.job_id.is_not(None), JobForecast.look_at <= func.now())
    rows += session.scalars(
        due.where(JobForecast.id.not_in([row.id for row in rows]))
        .order_by(JobForecast.look_at)
        .limit(MOST)
    )
    now = session.scalars(select(func.now())).one()
    by_lane: defaultdict[LaneName, list[JobForecast]] = defaultdict(list)
    for row in rows:
        by_lane[row.account, row.endpoint, row.model].append(row)
    coverages = _coverages(session, by_lane)
    for lane, some in by_lane.items():
        past = Experience(_history(session, lane))
        for row in some:
            _say(row, past, coverages.get(lane), now)
    return len(rows)


def _coverages(session: Session, lanes: Iterable[LaneName]) -> dict[LaneName, Coverage]:
    name = tuple_(Coverage.account, Coverage.endpoint, Coverage.model)
    found = session.scalars(select(Coverage).where(name.in_(list(lanes))))
    return {(row.account, row.endpoint, row.model): row for row in found}


def _history(session: Session, lane: LaneName) -> list[Past]:
    rows = session.execute(
        select(JobForecast.requests, JobForecast.ahead, JobForecast.since, JobForecast.ended_at)
        .where(JobForecast.ended_at.is_not(None))
        .filter_by(**_named(lane))
        .order_by(JobForecast.ended_at.desc())
        .limit(HISTORY)
    )
    return [
        Past(
            requests=requests,
            ahead=before,
            since=since,
            took=(ended_at - since).total_seconds() if ended_at else 0.0,
        )
        for requests, before, since, ended_at in rows
    ]


def _say(row: JobForecast, past: Experience, counted: Coverage | None, now: datetime) -> None:
    """Write a forecast into its row, and when it is to be made the next time."""
    is_half = row.half_at is not None and row.half_at <= now
    stretch = 1.0
    if counted is not None:
        stretch = counted.half_stretch if is_half else counted.stretch
    kind = Kind(requests=row.requests, ahead=row.ahead, since=row.since)
    found = past.forecast(kind, now, stretch)
    if not isinstance(found, Forecast):
        row.p50 = row.p90 = row.basis = None
        row.code, row.reason = found.code, found.reason
        row.look_at = now + min(max((now - row.since) / 8, SOON), LATE)
        return
    row.p50, row.p90, row.basis = found.p50, found.p90, found.basis
    row.code = row.reason = None
    is_first = row.half_at is None
    if is_first:
        row.half_at = half_time(row.since, found)
        if now - row.since <= max(FRESH, (found.p90 - row.since) / 10):
            row.said_p90 = found.p90
    elif is_half and row.half_p90 is None and row.said_p90 is not None:
        row.half_p90 = found.p90
    row.look_at = now + min(max((found.p50 - now) / 8, SOON), LATE)
    if row.half_at is not None and row.half_at > now:
        row.look_at = min(row.look_at, row.half_at)
