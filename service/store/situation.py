"""The overview: what needs a person, what comes in and goes out, and what is under way.

Every read is on an index and bounded: it looks at MOST rows, and says so where there are more.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import TextClause, select, text
from sqlalchemy.orm import Session

from service.rules.needs import NeedKind
from service.rules.states import LaneState
from service.store.audit import path
from service.store.engine import Database
from service.store.lane_verbs import id_of
from service.store.models import SCHEMA, Audit, Heartbeat, Lane

MOST = 20_000
"""Rows of a kind that are looked at."""
EXAMPLES = 5
FLOW = timedelta(hours=1)
"""The time over which what comes in and goes out is added up."""
SILENT = timedelta(seconds=15)
"""A process whose last heartbeat is older is not running."""
NEEDED = ("worker", "scheduler", "notifier")
"""The kinds of processes without which work stands still."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What waits for a person, of one kind."""

    kind: NeedKind
    number: int
    at_least: bool
    """There may be more."""
    since: datetime | None
    """Since when the first one waits."""
    names: Sequence[str]
    """Those that wait the longest, as the command line and the API name them."""
    reason: str | None
    """Why the first one waits."""


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Jobs that came in, or ended, since then."""

    since: datetime
    jobs: int
    requests: int
    failed: int = 0
    """Of these requests."""


@dataclass(frozen=True, kw_only=True)
class UnderWay:
    rows: int
    requests: int


@dataclass(frozen=True, kw_only=True)
class Overview:
    """All of it at one instant."""

    at: datetime
    needs: Sequence[Need]
    """The most urgent first."""
    arrived: Flow
    ended: Flow
    jobs: dict[str, UnderWay]
    """By state, of those that are not finished; requests are those that are pending."""
    batches: dict[str, UnderWay]
    """By state, of those that are neither done nor parked."""
    waiting: UnderWay
    """Parts that wait to be let in."""
    oldest_waiting: datetime | None
    """Since when the first of them could have been let in."""
    at_least: frozenset[str]
    """Which of `jobs`, `batches` and `waiting` hold MOST rows, so that there may be more."""


# As plain text, so that the planner sees which partial index holds the rows. Each gives the name,
# since when, and why.
_NEEDS = {
    NeedKind.ACCOUNT_BLOCKED: """
SELECT name, blocked_since AS since, reason FROM {schema}.accounts
WHERE blocked_since IS NOT NULL""",
    NeedKind.BATCH_PARKED: """
SELECT p.job_id::text AS name, b.parked_at AS since, b.last_error AS reason
FROM {schema}.batches b
LEFT JOIN LATERAL (SELECT job_id FROM {schema}.parts WHERE batch_id = b.id LIMIT 1) p ON true
WHERE b.parked_at IS NOT NULL AND b.finished_at IS NULL""",
    NeedKind.JOB_PARKED: """
SELECT id::text AS name, parked_at AS since, last_error AS reason FROM {schema}.jobs
WHERE finished_at IS NULL AND parked_at IS NOT NULL""",
    NeedKind.JOB_HELD: """
SELECT id::text AS name, held_at AS since, NULL AS reason FROM {schema}.jobs
WHERE finished_at IS NULL AND held_at IS NOT NULL""",
    NeedKind.COST_REACHED: """
SELECT id::text AS name, NULL::timestamptz AS since, short_reason AS reason FROM {schema}.jobs
WHERE finished_at IS NULL AND short_reason IS NOT NULL""",
    NeedKind.BUDGET_REACHED: """
SELECT name, NULL::timestamptz AS since, NULL AS reason FROM {schema}.producers
WHERE short_until > now()""",
    NeedKind.DEADLINE_MISSED: """
SELECT id::text AS name, deadline_missed_at AS since, NULL AS reason FROM {schema}.jobs
WHERE deadline_look_at IS NOT NULL AND deadline_missed_at IS NOT NULL""",
    NeedKind.DEADLINE_AT_RISK: """
SELECT id::text AS name, deadline_at_risk_since AS since, NULL AS reason FROM {schema}.jobs
WHERE deadline_look_at IS NOT NULL AND deadline_missed_at IS NULL
AND deadline_at_risk_since IS NOT NULL""",
    # One for an address, named by the job of a notice: that is what the verbs take.
    NeedKind.NOTICE_GIVEN_UP: """
SELECT (array_agg(job_id::text ORDER BY parked_at DESC))[1] AS name, min(parked_at) AS since,
       concat_ws(': ', endpoint, (array_agg(last_error ORDER BY parked_at DESC))[1]) AS reason
FROM (SELECT job_id, endpoint, parked_at, last_error FROM {schema}.deliveries
      WHERE parked_at > now() - interval '7 days' LIMIT {most}) AS given_up
GROUP BY endpoint""",
}

_NEED = """
SELECT '{kind}' AS kind, count(*) AS number, min(since) AS since,
       (array_agg(name ORDER BY since))[1:{examples}] AS names,
       (array_agg(reason ORDER BY since))[1] AS reason
FROM (SELECT * FROM ({rows}) AS all_of_them LIMIT {most}) AS found
HAVING count(*) > 0
"""

_ARRIVED = """
SELECT count(*) AS jobs, coalesce(sum(total), 0) AS requests, 0 AS failed, min(at) AS first,
       count(*) FILTER (WHERE is_call) AS calls
FROM ((SELECT total, created_at AS at, is_call FROM {schema}.jobs
       WHERE NOT is_call AND created_at > now() - :flow ORDER BY created_at DESC LIMIT {most})
      UNION ALL
      (SELECT total, created_at, is_call FROM {schema}.jobs
       WHERE is_call AND created_at > now() - :flow ORDER BY created_at DESC LIMIT {most})) AS new
"""
_ENDED = """
SELECT count(*) AS jobs, coalesce(sum(succeeded + failed), 0) AS requests,
       coalesce(sum(failed), 0) AS failed, min(finished_at) AS first, 0 AS calls
FROM (SELECT succeeded, failed, finished_at FROM {schema}.jobs
      WHERE finished_at IS NOT NULL AND finished_at > now() - :flow
      ORDER BY finished_at DESC LIMIT {most}) AS done
"""

_JOBS = """
SELECT state, count(*) AS rows, sum(pending) AS requests
FROM (SELECT state, pending FROM {schema}.jobs WHERE finished_at IS NULL LIMIT {most}) AS open
GROUP BY state
"""
_BATCHES = """
SELECT state, count(*) AS rows, sum(requests) AS requests
FROM (SELECT state, requests FROM {schema}.batches
      WHERE parked_at IS NULL AND state IN ('created', 'ended', 'queued', 'uploaded')
      LIMIT {most}) AS open
GROUP BY state
"""
_WAITING = """
SELECT count(*) AS rows, coalesce(sum(requests), 0) AS requests,
       min(ready_at) FILTER (WHERE ready_at <= now()) AS oldest
FROM (SELECT requests, ready_at FROM {schema}.parts WHERE state = 'waiting' LIMIT {most}) AS open
"""


def overview(db: Database) -> Overview:
    """Return the overview of the whole deployment, for operators."""
    with db.begin() as session:
        now: datetime = session.execute(text("SELECT now()")).scalar_one()
        jobs, batches = _under_way(session, _JOBS), _under_way(session, _BATCHES)
        waiting = session.execute(_filled(_WAITING)).mappings().one()
        full = {
            "jobs": sum(found.rows for found in jobs.values()) >= MOST,
            "batches": sum(found.rows for found in batches.values()) >= MOST,
            "waiting": waiting["rows"] >= MOST,
        }
        return Overview(
            at=now,
            needs=_needs(session, now),
            arrived=_flow(session, _ARRIVED, now),
            ended=_flow(session, _ENDED, now),
            jobs=jobs,
            batches=batches,
            waiting=UnderWay(rows=waiting["rows"], requests=int(waiting["requests"])),
            oldest_waiting=waiting["oldest"],
            at_least=frozenset(name for name, is_full in full.items() if is_full),
        )


def needs(db: Database) -> Sequence[Need]:
    """Return what waits for a person, the most urgent first."""
    with db.begin() as session:
        return _needs(session, session.execute(text("SELECT now()")).scalar_one())


def paused_by(db: Database, lanes: Collection[Lane]) -> dict[str, str]:
    """Return who paused those of the lanes that are paused, by the lane's id."""
    with db.begin() as session:
        return _paused_by(session, lanes)


def _paused_by(session: Session, lanes: Collection[Lane]) -> dict[str, str]:
    ids = {path("lanes", id_of(lane)): id_of(lane) for lane in lanes if lane.paused_at is not None}
    if not ids:
        return {}
    found = session.execute(
        select(Audit.object, Audit.actor)
        .where(Audit.object.in_(ids), Audit.verb == "pause")
        .where(Audit.at >= min(lane.paused_at for lane in lanes if lane.paused_at is not None))
        .order_by(Audit.id)
    )
    return {ids[of]: actor for of, actor in found}  # of several, the last


def _needs(session: Session, now: datetime) -> list[Need]:
    statement = " UNION ALL ".join(
        f"({_NEED.format(kind=kind, examples=EXAMPLES, most=MOST, rows=_within(rows))})"
        for kind, rows in _NEEDS.items()
    )
    found = [
        Need(
            kind=NeedKind(row["kind"]),
            number=row["number"],
            at_least=row["number"] >= MOST,
            since=row["since"],
            names=[name for name in row["names"] if name],
            reason=row["reason"],
        )
        for row in session.execute(text(statement)).mappings()
    ]
    found += _missing(session, now)
    found += _lanes(session)
    urgency = list(NeedKind)
    return sorted(found, key=lambda need: urgency.index(need.kind))


def _missing(session: Session, now: datetime) -> list[Need]:
    seen: dict[str, datetime] = {}
    for kind, at in session.execute(select(Heartbeat.kind, Heartbeat.seen_at)):
        seen[kind] = max(at, seen.get(kind, at))
    missing = [kind for kind in NEEDED if kind not in seen or seen[kind] < now - SILENT]
    since = [seen[kind] for kind in missing if kind in seen]
    return _need(NeedKind.PROCESS_MISSING, missing, min(since, default=None), None)


def _lanes(session: Session) -> list[Need]:
    ill = list(
        session.scalars(
            select(Lane)
            .where((Lane.paused_at.is_not(None)) | (Lane.state != LaneState.HEALTHY))
            .order_by(Lane.paused_at, Lane.since)
            .limit(MOST)
        )
    )
    paused = [lane for lane in ill if lane.paused_at is not None]
    unwell = [lane for lane in ill if lane.paused_at is None]
    actors = _paused_by(session, paused[:1])
    by = next((f"paused by {actor}" for actor in actors.values()), None)
    return [
        *_need(
            NeedKind.LANE_PAUSED,
            [id_of(lane) for lane in paused],
            paused[0].paused_at if paused else None,
            paused[0].model + (f", {by}" if by else "") if paused else None,
        ),
        *_need(
            NeedKind.LANE_UNWELL,
            [id_of(lane) for lane in unwell],
            unwell[0].since if unwell else None,
            unwell[0].model if unwell else None,
        ),
    ]


def _need(
    kind: NeedKind, names: Sequence[str], since: datetime | None, reason: str | None
) -> list[Need]:
    if not names:
        return []
    return [
        Need(
            kind=kind,
            number=len(names),
            at_least=len(names) >= MOST,
            since=since,
            names=names[:EXAMPLES],
            reason=reason,
        )
    ]


def _flow(session: Session, statement: str, now: datetime) -> Flow:
    row = session.execute(_filled(statement), {"flow": FLOW}).mappings().one()
    # Where there are more than were looked at, they are those since the oldest of them.
    is_bounded = max(row["calls"], row["jobs"] - row["calls"]) >= MOST
    return Flow(
        since=row["first"] if is_bounded else now - FLOW,
        jobs=row["jobs"],
        requests=int(row["requests"]),
        failed=int(row["failed"]),
    )


def _under_way(session: Session, statement: str) -> dict[str, UnderWay]:
    rows: Sequence[Any] = session.execute(_filled(statement)).mappings().all()
    return {
        row["state"]: UnderWay(rows=row["rows"], requests=int(row["requests"] or 0)) for row in rows
    }


def _within(statement: str) -> str:
    return statement.format(schema=SCHEMA, most=MOST)


def _filled(statement: str) -> TextClause:
    return text(_within(statement))
