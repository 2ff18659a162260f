"""The figures behind `/metrics`. Reads open rows only, on their indexes.

Finished jobs and batches are many and stay: they are counted by what they have used.
"""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import TextClause, text

from service.rules.retry import MANY_FAILURES
from service.store.engine import Database
from service.store.lane_verbs import id_of
from service.store.models import SCHEMA, Lane

# As plain text, so that the planner sees which partial index holds the rows.
_JOBS = """
SELECT state, count(*) AS rows, count(*) FILTER (WHERE parked_at IS NOT NULL) AS parked,
       count(*) FILTER (WHERE due) AS due,
       count(*) FILTER (WHERE parked_at IS NULL AND failures >= {many}) AS failing,
       extract(epoch FROM now() - min(not_before) FILTER (WHERE due)) AS oldest
FROM (SELECT state, parked_at, not_before, failures,
             parked_at IS NULL AND open_parts = 0 AND not_before <= now()
             AND (lease IS NULL OR leased_until < now()) AS due
      FROM {schema}.jobs WHERE finished_at IS NULL) AS open
GROUP BY state
"""

_BATCHES = """
SELECT state, count(*) AS rows, count(*) FILTER (WHERE due) AS due,
       count(*) FILTER (WHERE failures >= {many}) AS failing,
       extract(epoch FROM now() - min(not_before) FILTER (WHERE due)) AS oldest,
       extract(epoch FROM now() - min(since)) AS age
FROM (SELECT state, not_before, failures, coalesce(submitted_at, created_at) AS since,
             not_before <= now() AND (lease IS NULL OR leased_until < now())
             AND NOT EXISTS (
                 SELECT FROM {schema}.accounts a
                 WHERE a.name = b.account
                 AND (a.paused_until > now() AND NOT a.spending
                      OR (a.paused_until > now() OR a.paused_at IS NOT NULL)
                      AND b.state IN ('queued', 'uploaded'))) AS due
      FROM {schema}.batches b
      WHERE parked_at IS NULL AND state IN ('created', 'ended', 'queued', 'uploaded')) AS open
GROUP BY state
"""

_DEADLINES = """
SELECT CASE WHEN deadline_missed_at IS NOT NULL THEN 'missed'
            WHEN deadline_at_risk_since IS NOT NULL THEN 'at_risk' ELSE 'ahead' END AS standing,
       count(*) AS jobs
FROM {schema}.jobs WHERE deadline_look_at IS NOT NULL GROUP BY 1
"""

_WAITING = """
SELECT count(*) AS parts,
       coalesce(extract(epoch FROM now() - min(ready_at)), 0) AS longest
FROM {schema}.parts WHERE state = 'waiting'
"""

_HELD_LANES = "SELECT count(*) FROM {schema}.lanes WHERE held_until > now()"
_LANES = """
SELECT state, count(*) AS lanes, count(*) FILTER (WHERE paused_at IS NOT NULL) AS paused
FROM {schema}.lanes GROUP BY state
"""
_FORECASTS = """
SELECT account, endpoint, model, ended, in_time, half_ended, half_in_time
FROM {schema}.forecast_coverage ORDER BY ended DESC, account, endpoint, model LIMIT 50
"""
_COUNTERS = "SELECT name, count FROM {schema}.counters"

_PARKED_BATCHES = "SELECT count(*) FROM {schema}.batches WHERE parked_at IS NOT NULL"
_PARKED_DELIVERIES = "SELECT count(*) FROM {schema}.deliveries WHERE parked_at IS NOT NULL"

_DELIVERIES = """
SELECT count(*) AS rows,
       extract(epoch FROM now() - min(not_before)) AS oldest,
       coalesce(extract(epoch FROM now() - min(created_at)), 0) AS age
FROM {schema}.deliveries WHERE delivered_at IS NULL AND parked_at IS NULL
"""

_ACCOUNTS = """
SELECT count(*) FILTER (WHERE blocked_since IS NOT NULL) AS blocked,
       count(*) FILTER (WHERE blocked_since IS NULL AND paused_until > now()) AS slowed
FROM {schema}.accounts
"""

_PROCESSES = """
SELECT kind, extract(epoch FROM now() - max(seen_at)) AS age,
       min(scratch_free) FILTER (WHERE seen_at > now() - interval '15 seconds') AS scratch_free,
       count(*) FILTER (WHERE seen_at > now() - interval '15 seconds') AS alive
FROM {schema}.heartbeats GROUP BY kind
"""

_USED = """
SELECT coalesce(sum(batches), 0) AS batches, coalesce(sum(succeeded), 0) AS succeeded,
       coalesce(sum(dead), 0) AS dead, coalesce(sum(prompt_tokens), 0) AS prompt,
       coalesce(sum(completion_tokens), 0) AS completion
FROM {schema}.usage
"""

_SHORT = "SELECT count(*) FROM {schema}.producers WHERE short_until > now()"
_HELD_BACK = """
SELECT count(*) FILTER (WHERE held_at IS NOT NULL) AS held,
       count(*) FILTER (WHERE short_reason IS NOT NULL) AS short
FROM {schema}.jobs WHERE finished_at IS NULL
"""
_TICKS = "SELECT up_to, count, seconds FROM {schema}.ticks ORDER BY up_to"


@dataclass(frozen=True, kw_only=True)
class Gauges:
    """Ages are in seconds; what is due and free and not yet on a worker has been so for `oldest`.

    Kinds are `job`, `batch` and `delivery`.
    """

    jobs: dict[str, int]
    """By state, of those that are not finished."""
    batches: dict[str, int]
    """By state, of those that are neither done nor parked."""
    batch_ages: dict[str, float]
    """By state, of the batch that is the longest under way: since its create, or its beginning."""
    waiting: int
    """Parts that wait to be let in."""
    longest_wait: float
    """How long the first of them could have been."""
    notice_age: float
    """Of the oldest notice that is neither delivered nor given up."""
    short_producers: int
    """Producers that have reached a budget."""
    short_jobs: int
    """Jobs that have reached their `max_cost`."""
    held_jobs: int
    """Jobs whose canary failed, and which wait to be released."""
    scratch_free: int | None
    """Of the worker that has the least; None if none has said."""
    due: dict[str, int]
    oldest: dict[str, float]
    parked: dict[str, int]
    failing: dict[str, int]
    """Rows that failed many times in a row and go on trying."""
    deadlines: dict[str, int]
    """Jobs with a deadline that are not finished, by how they stand to it."""
    held_lanes: int
    paused_lanes: int
    lanes: dict[str, int]
    """By state."""
    forecasts: dict[tuple[str, str], tuple[int, int]]
    """By lane's id, and `submission` or `half`: jobs that ended, and those in time. Of 50 lanes."""
    counters: dict[str, int]
    blocked_accounts: int
    slowed_accounts: int
    heartbeat_ages: dict[str, float] = field(default_factory=dict)
    processes: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    ticks: list[tuple[float, int, float]] = field(default_factory=list)
    """(up to how many seconds, count, seconds of all of them)."""


def gauges(db: Database) -> Gauges:
    """All of them, at one instant."""
    with db.begin() as session:

        def rows(statement: str) -> list[Any]:
            return list(session.execute(_filled(statement)).mappings())

        def number(statement: str) -> int:
            return int(session.scalars(_filled(statement)).one())

        jobs, batches = rows(_JOBS), rows(_BATCHES)
        (deliveries,), (accounts,), (used,) = rows(_DELIVERIES), rows(_ACCOUNTS), rows(_USED)
        processes, lanes = rows(_PROCESSES), rows(_LANES)
        (waiting,), (held_back,) = rows(_WAITING), rows(_HELD_BACK)
        free = [row["scratch_free"] for row in processes if row["scratch_free"] is not None]
        return Gauges(
            jobs={row["state"]: row["rows"] for row in jobs},
            batches={row["state"]: row["rows"] for row in batches},
            batch_ages={row["state"]: float(row["age"]) for row in batches},
            waiting=waiting["parts"],
            longest_wait=max(0.0, float(waiting["longest"])),
            notice_age=float(deliveries["age"]),
            short_producers=number(_SHORT),
            short_jobs=held_back["short"],
            held_jobs=held_back["held"],
            scratch_free=min(free, default=None),
            due={
                "job": sum(row["due"] for row in jobs),
                "batch": sum(row["due"] for row in batches),
                "delivery": deliveries["rows"],
            },
            oldest={
                "job": _oldest(jobs),
                "batch": _oldest(batches),
                "delivery": _oldest([deliveries]),
            },
            parked={
                "job": sum(row["parked"] for row in jobs),
                "batch": number(_PARKED_BATCHES),
                "delivery": number(_PARKED_DELIVERIES),
            },
            failing={
                "job": sum(row["failing"] for row in jobs),
                "batch": sum(row["failing"] for row in batches),
            },
            deadlines={row["standing"]: row["jobs"] for row in rows(_DEADLINES)},
            held_lanes=number(_HELD_LANES),
            paused_lanes=sum(row["paused"] for row in lanes),
            lanes={row["state"]: row["lanes"] for row in lanes},
            forecasts=_forecasts(rows(_FORECASTS)),
            counters={row["name"]: row["count"] for row in rows(_COUNTERS)},
            blocked_accounts=accounts["blocked"],
            slowed_accounts=accounts["slowed"],
            heartbeat_ages={row["kind"]: float(row["age"]) for row in processes},
            processes={row["kind"]: row["alive"] for row in processes},
            used={name: int(value) for name, value in used.items()},
            ticks=[(row["up_to"], row["count"], row["seconds"]) for row in rows(_TICKS)],
        )


def _forecasts(rows: list[Any]) -> dict[tuple[str, str], tuple[int, int]]:
    found = {}
    for row in rows:
        lane = id_of(Lane(account=row["account"], endpoint=row["endpoint"], model=row["model"]))
        found[lane, "submission"] = (row["ended"], row["in_time"])
        found[lane, "half"] = (row["half_ended"], row["half_in_time"])
    return found


def _filled(statement: str) -> TextClause:
    return text(statement.format(schema=SCHEMA, many=MANY_FAILURES))


def _oldest(rows: list[Any]) -> float:
    return max((float(row["oldest"]) for row in rows if row["oldest"] is not None), default=0.0)
