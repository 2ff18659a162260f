"""Reading forecasts. Cheap: they stand in rows, which `service.store.foresee` makes and renews."""

from collections import defaultdict
from collections.abc import Collection
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.rules.admission import LaneName
from service.rules.forecast import NOT_YET, Forecast, NoForecast, last, not_past
from service.store.engine import Database
from service.store.models import Job, Lane

log = structlog.get_logger()

# What waits for something that has no end in sight is told so at once, whatever was forecast. Only
# then are parts looked at, of which a job may have many.
_OF_JOBS = text("""
SELECT j.id, f.p50, f.p90, f.basis, f.code, f.reason, now() AS now, CASE
  WHEN j.parked_at IS NOT NULL OR j.id IN (
    SELECT p.job_id FROM haulier.batches b JOIN haulier.parts p ON p.batch_id = b.id
    WHERE b.parked_at IS NOT NULL AND b.finished_at IS NULL AND p.job_id = ANY(:ids)) THEN 'parked'
  WHEN j.held_at IS NOT NULL THEN 'held'
  WHEN a.blocked_since IS NOT NULL AND a.paused_until > now() THEN 'account_paused'
  WHEN a.paused_at IS NOT NULL AND waits.some THEN 'account_stopped'
  WHEN j.short_reason IS NOT NULL AND waits.some THEN 'max_cost'
  WHEN o.short_until > now() AND waits.some THEN 'budget'
  WHEN l.paused_at IS NOT NULL AND waits.some THEN 'lane_paused'
  WHEN l.state <> 'healthy' AND waits.some THEN 'lane_' || l.state
END AS stop
FROM haulier.jobs j
LEFT JOIN haulier.forecasts f ON f.job_id = j.id
LEFT JOIN haulier.lanes l
  ON (l.account, l.endpoint, l.model) = (f.account, f.endpoint, f.model)
LEFT JOIN haulier.accounts a ON a.name = j.account
LEFT JOIN haulier.producers o ON o.name = j.producer
LEFT JOIN LATERAL (
  SELECT EXISTS (
    SELECT FROM haulier.parts p WHERE p.job_id = j.id AND p.state = 'waiting') AS some
  WHERE j.short_reason IS NOT NULL OR o.short_until > now() OR l.paused_at IS NOT NULL
    OR a.paused_at IS NOT NULL OR l.state <> 'healthy') waits ON true
WHERE j.id = ANY(:ids) AND j.finished_at IS NULL AND NOT j.is_call
""")

_STOPS = {
    "parked": "it waits for an operator",
    "held": "the rest is held until somebody releases it",
    "account_paused": "its account is paused: the key or the credit is refused",
    "account_stopped": "an operator has paused its account",
    "max_cost": "its `max_cost` would be passed",
    "budget": "its producer's budget is used up",
    "lane_paused": "an operator has paused the lane",
    "lane_resting": "the lane rests after trouble at Together",
    "lane_probing": "the lane is being probed after trouble at Together",
}


def of_jobs(session: Session, ids: Collection[UUID]) -> dict[UUID, Forecast | NoForecast]:
    """Return the forecasts of jobs, with one query.

    Jobs that have ended, and calls, have none. No instant has passed already. A job over several
    lanes ends when its last part does.
    """
    found: defaultdict[UUID, list[Forecast | NoForecast]] = defaultdict(list)
    for row in session.execute(_OF_JOBS, {"ids": list(ids)}) if ids else ():
        found[row.id].append(_read(row))
    return {job_id: last(some) for job_id, some in found.items()}


def shown_of_lanes(db: Database) -> dict[LaneName, Forecast | NoForecast]:
    """Return what `of_lanes` does; none if that fails."""
    try:
        with db.begin() as session:
            return of_lanes(session)
    except SQLAlchemyError as error:
        log.warning("forecasts_not_read", reason=type(error).__name__)
        return {}


def stop_of(lane: Lane, *, is_stopped: bool) -> NoForecast | None:
    """Return why what waits for a lane has no end in sight, if so it is.

    `is_stopped` says that an operator has paused its account.
    """
    if is_stopped:
        return NoForecast("account_stopped", _STOPS["account_stopped"])
    if lane.paused_at is not None:
        return NoForecast("lane_paused", _STOPS["lane_paused"])
    code = f"lane_{lane.state}"
    return NoForecast(code, _STOPS[code]) if code in _STOPS else None


def shown(db: Database, jobs: Collection[Job]) -> dict[UUID, Forecast | NoForecast]:
    """Return the forecasts of those of the jobs that have not ended; none if that fails.

    A forecast is never in the way of what it stands beside.
    """
    ids = [job.id for job in jobs if job.finished_at is None and not job.is_call]
    if not ids:
        return {}
    try:
        with db.begin() as session:
            return of_jobs(session, ids)
    except SQLAlchemyError as error:
        log.warning("forecasts_not_read", reason=type(error).__name__)
        return {}


def _read(row: Any) -> Forecast | NoForecast:
    if row.stop is not None:
        return NoForecast(row.stop, _STOPS[row.stop])
    if row.p50 is not None:
        return not_past(Forecast(p50=row.p50, p90=row.p90, basis=row.basis), row.now)
    return NOT_YET if row.code is None else NoForecast(row.code, row.reason)


# A lane ends with the last of what is in it now. One that has no forecast has no end in sight.
_OF_LANES = text("""
SELECT f.account, f.endpoint, f.model, max(f.p50) AS p50, max(f.p90) AS p90, min(f.basis) AS basis,
  count(*) FILTER (WHERE f.p90 IS NULL) AS unknown, now() AS now
FROM haulier.forecasts f WHERE f.job_id IS NOT NULL GROUP BY 1, 2, 3
""")


def of_lanes(session: Session) -> dict[LaneName, Forecast | NoForecast]:
    """Return by when all jobs that are in each lane now will have ended there.

    What a lane's own state says of it is left to the reader. Lanes without a job are not in it.
    """
    found: dict[LaneName, Forecast | NoForecast] = {}
    for row in session.execute(_OF_LANES):
        name = (row.account, row.endpoint, row.model)
        if row.unknown:
            # Not how many: they may be others' jobs.
            found[name] = NoForecast("jobs", "jobs that are in it have no forecast")
        else:
            found[name] = not_past(Forecast(p50=row.p50, p90=row.p90, basis=row.basis), row.now)
    return found
