"""What the console's first page tells. Counts are bounded, so that millions of rows cost little.

A count of MOST + 1 means more than MOST.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text

from service.store.engine import Database
from service.store.models import SCHEMA, Delivery, Job

MOST = 10_000
SHOWN = 5
"""The most rows of a kind that are told one by one."""
NEWEST = 200
"""The jobs whose forecasts tell when the backlog ends: what came last usually ends last."""


def _sql(statement: str) -> tuple[Any, Any]:
    """Return a statement about everybody's rows, and one about a producer's."""
    known = statement.format(schema=SCHEMA, most=MOST + 1, shown=SHOWN, newest=NEWEST)
    return (
        text(known.format(mine="", b_mine="", of_mine="", named="")),
        text(
            known.format(
                mine="AND producer = :sees",
                b_mine="AND b.producer = :sees",
                of_mine=_OF_MINE,
                named="AND name = :sees",
            )
        ),
    )


_OF_MINE = f"""AND EXISTS (
    SELECT FROM {SCHEMA}.jobs j WHERE j.id = d.job_id AND j.producer = :sees)"""


# As plain text, so that the planner sees which partial index holds the rows.
_STOPPED = _sql("""
SELECT id, producer, parked_at, held_at, last_error, canary, failed, canary_failures
FROM {schema}.jobs
WHERE finished_at IS NULL AND (parked_at IS NOT NULL OR held_at IS NOT NULL)
  {{mine}}
ORDER BY created_at LIMIT 200
""")
_PARKED_BATCHES = _sql("""
SELECT b.id, b.parked_at, b.model, b.account, b.requests, b.last_error, b.producer, (
  SELECT p.job_id FROM {schema}.parts p WHERE p.batch_id = b.id LIMIT 1) AS job_id
FROM {schema}.batches b
WHERE b.parked_at IS NOT NULL AND b.finished_at IS NULL
  {{b_mine}}
ORDER BY b.parked_at LIMIT 200
""")
_AT_RISK = _sql("""
SELECT id, producer, deadline, deadline_missed_at, deadline_at_risk_since FROM {schema}.jobs
WHERE deadline_look_at IS NOT NULL
  AND (deadline_missed_at IS NOT NULL OR deadline_at_risk_since IS NOT NULL)
  {{mine}}
ORDER BY deadline LIMIT 200
""")
_DEAD_NOTICES = _sql("""
SELECT endpoint, count(*) AS rows, min(parked_at) AS since, max(last_error) AS last_error
FROM (SELECT d.* FROM {schema}.deliveries d WHERE d.parked_at IS NOT NULL
  {{of_mine}}
  ORDER BY d.parked_at DESC LIMIT 1000) AS dead
GROUP BY endpoint ORDER BY 2 DESC LIMIT {shown}
""")
_OPEN_JOBS = _sql("""
SELECT state, count(*) AS rows FROM (
  SELECT state FROM {schema}.jobs WHERE finished_at IS NULL AND NOT is_call
    {{mine}} LIMIT {most}) AS few
GROUP BY state
""")
_OPEN_BATCHES = _sql("""
SELECT state, count(*) AS rows, sum(requests) AS requests FROM (
  SELECT state, requests FROM {schema}.batches
  WHERE parked_at IS NULL AND state IN ('created', 'ended', 'queued', 'uploaded')
    {{mine}} LIMIT {most}) AS few
GROUP BY state
""")
_WAITING = _sql("""
SELECT count(*) AS rows, coalesce(sum(requests), 0) AS requests FROM (
  SELECT requests FROM {schema}.parts WHERE state = 'waiting'
    {{mine}} LIMIT {most}) AS few
""")
_OLDEST = _sql("""
SELECT min(created_at) FROM (
  (SELECT created_at FROM {schema}.jobs WHERE state = 'running' AND NOT is_call
     {{mine}} ORDER BY created_at LIMIT 1)
  UNION ALL
  (SELECT created_at FROM {schema}.jobs WHERE state = 'accepted' AND NOT is_call
     {{mine}} ORDER BY created_at LIMIT 1)) AS first
""")
_ARRIVED = _sql("""
SELECT count(*) AS rows, coalesce(sum(total), 0) AS requests FROM (
  SELECT total FROM {schema}.jobs
  WHERE NOT is_call AND created_at > now() - interval '1 hour'
    {{mine}}
  ORDER BY created_at DESC LIMIT {most}) AS few
""")
_BACKLOG = _sql("""
SELECT max(f.p50) AS p50, max(f.p90) AS p90, count(f.p90) AS known, count(*) AS jobs FROM (
  SELECT id FROM {schema}.jobs WHERE state = 'running' AND NOT is_call
    {{mine}}
  ORDER BY created_at DESC LIMIT {newest}) AS newest
LEFT JOIN {schema}.forecasts f ON f.job_id = newest.id
""")
_BUDGETS = _sql("""
SELECT name, usd_per_day, usd_per_month, short_reason,
  coalesce(short_until > now(), false) AS is_short
FROM {schema}.producers WHERE (usd_per_day IS NOT NULL OR usd_per_month IS NOT NULL)
  {{named}}
ORDER BY short_until DESC NULLS LAST, name LIMIT 20
""")


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What is told of everybody's jobs, or of one producer's."""

    stopped: Sequence[Mapping[str, Any]]
    """Jobs that are parked, or held after their canary failed."""
    parked_batches: Sequence[Mapping[str, Any]]
    at_risk: Sequence[Mapping[str, Any]]
    """Jobs that have missed their deadline, or will by their forecast."""
    dead_notices: Sequence[Mapping[str, Any]]
    """Notices that are given up, by where they were to go."""
    budgets: Sequence[Mapping[str, Any]]
    """Of the producers that have one."""
    jobs: Mapping[str, int]
    batches: Mapping[str, int]
    """Both by state, of those that are under way."""
    travelling: int
    waiting: int
    """Requests in batches, and requests that wait to be let into one."""
    waiting_parts: int
    oldest: datetime | None
    """When the oldest job came that is not finished."""
    arrived: int
    arrived_jobs: int
    """In the last hour."""
    backlog_p50: datetime | None
    backlog_p90: datetime | None
    """By when what is under way will be done; None if that is not known."""


def overview(db: Database, sees: str | None) -> Overview:
    """Return all of it, at one instant; of one producer's jobs, or everybody's (None)."""
    asked = {} if sees is None else {"sees": sees}
    which = 0 if sees is None else 1
    with db.begin() as session:

        def rows(statement: tuple[Any, Any]) -> list[Mapping[str, Any]]:
            return [dict(row) for row in session.execute(statement[which], asked).mappings()]

        (waiting,), (arrived,), (backlog,) = rows(_WAITING), rows(_ARRIVED), rows(_BACKLOG)
        batches = rows(_OPEN_BATCHES)
        is_known = backlog["jobs"] > 0 and backlog["known"] >= backlog["jobs"]
        return Overview(
            stopped=rows(_STOPPED),
            parked_batches=rows(_PARKED_BATCHES),
            at_risk=rows(_AT_RISK),
            dead_notices=rows(_DEAD_NOTICES),
            budgets=rows(_BUDGETS),
            jobs={row["state"]: row["rows"] for row in rows(_OPEN_JOBS)},
            batches={row["state"]: row["rows"] for row in batches},
            travelling=sum(int(row["requests"]) for row in batches),
            waiting=int(waiting["requests"]),
            waiting_parts=waiting["rows"],
            oldest=session.scalar(_OLDEST[which], asked),
            arrived=int(arrived["requests"]),
            arrived_jobs=arrived["rows"],
            backlog_p50=backlog["p50"] if is_known else None,
            backlog_p90=backlog["p90"] if is_known else None,
        )


def given_up(
    db: Database, endpoint: str, sees: str | None, *, limit: int
) -> list[tuple[UUID, UUID]]:
    """Return notices to an endpoint that were given up, oldest first: (job, notice)."""
    query = (
        select(Delivery.job_id, Delivery.id)
        .where(Delivery.parked_at.is_not(None), Delivery.endpoint == endpoint)
        .order_by(Delivery.parked_at)
        .limit(limit)
    )
    if sees is not None:
        own = select(Job.id).where(Job.id == Delivery.job_id, Job.producer == sees)
        query = query.where(own.exists())
    with db.begin() as session:
        return [(job_id, notice_id) for job_id, notice_id in session.execute(query)]
