"""Choose the rows to send to the workers next. The caller publishes them after the commit.

What this costs depends on what is due, not on what waits or is in flight. Rows of a paused account
or a held lane are not even read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text

from service.rules.states import BATCH_STAGES, JOB_STAGES, BatchState, Stage
from service.store.engine import Database
from service.store.models import Batch, Job


@dataclass(frozen=True)
class Due:
    """A row that was stamped as dispatched."""

    stage: Stage
    id: UUID
    account: str


# The words of partial indexes, so that the planner sees that they hold all that may be due.
_BATCHES = "b.parked_at IS NULL AND b.state IN ('created', 'ended', 'queued', 'uploaded')"
_JOBS = (
    "j.parked_at IS NULL AND (j.state = 'accepted' OR (j.state = 'running' AND j.open_parts = 0))"
)


def _sendable(row: str) -> str:
    """Match rows that are due, free, and not sent a moment ago."""
    return (
        f"{row}.not_before <= now() AND ({row}.lease IS NULL OR {row}.leased_until < now())"
        f" AND ({row}.dispatched_at IS NULL OR {row}.dispatched_at < now() - :again)"
    )


# The first few of each group (state, lane, priority). The groups are found by skipping from one to
# the next along the index. A batch that is to end passes each pause but one: `claim.may_be_sent`.
_SEND_BATCHES = text(f"""
WITH RECURSIVE groups AS (
  SELECT first.* FROM unnest(CAST(:states AS text[])) AS s(state), LATERAL (
    SELECT b.state, b.account, b.endpoint, b.model, b.priority FROM haulier.batches b
    WHERE {_BATCHES} AND b.state = s.state
    ORDER BY b.account, b.endpoint, b.model, b.priority LIMIT 1) first
  UNION ALL
  SELECT following.* FROM groups, LATERAL (
    SELECT b.state, b.account, b.endpoint, b.model, b.priority FROM haulier.batches b
    WHERE {_BATCHES} AND b.state = groups.state
    AND (b.account, b.endpoint, b.model, b.priority)
      > (groups.account, groups.endpoint, groups.model, groups.priority)
    ORDER BY b.account, b.endpoint, b.model, b.priority LIMIT 1) following
), found AS (
  SELECT first.* FROM groups g, LATERAL (
    SELECT b.id, b.priority, b.not_before FROM haulier.batches b
    WHERE {_BATCHES} AND b.state = g.state AND b.account = g.account AND b.endpoint = g.endpoint
    AND b.model = g.model AND b.priority = g.priority AND {_sendable("b")}
    ORDER BY b.not_before LIMIT :limit) first
  WHERE NOT EXISTS (SELECT FROM haulier.accounts a
                    WHERE a.name = g.account AND a.paused_until > now()
                    AND (NOT a.spending OR g.state IN ('queued', 'uploaded')))
  AND NOT EXISTS (SELECT FROM haulier.accounts a
                  WHERE g.state IN ('queued', 'uploaded') AND a.name = g.account
                  AND a.paused_at IS NOT NULL)
  AND NOT EXISTS (SELECT FROM haulier.lanes l
                  WHERE g.state IN ('queued', 'uploaded') AND l.account = g.account
                  AND l.endpoint = g.endpoint AND l.model = g.model
                  AND (l.held_until > now() OR l.paused_at IS NOT NULL))
  UNION
  SELECT b.id, b.priority, b.not_before FROM haulier.batches b
  WHERE b.ending IS NOT NULL AND b.finished_at IS NULL AND {_BATCHES}
  AND b.state = ANY(CAST(:states AS text[])) AND {_sendable("b")}
  AND NOT EXISTS (SELECT FROM haulier.accounts a
                  WHERE a.name = b.account AND a.paused_until > now() AND a.blocked_since IS NULL
                  AND b.ending = 'cancelled' AND b.provider_batch_id IS NOT NULL)
), picked AS (
  -- Not as part of `found`: nobody can lock the rows of a UNION.
  SELECT b.id FROM haulier.batches b
  WHERE b.id IN (SELECT id FROM found ORDER BY priority DESC, not_before LIMIT :limit)
  AND {_sendable("b")}
  FOR UPDATE SKIP LOCKED)
UPDATE haulier.batches b SET dispatched_at = now() FROM picked WHERE b.id = picked.id
RETURNING b.id, b.state, b.account, b.priority, b.not_before
""")  # noqa: S608  constant words

# Producers take turns, each starting behind what it has under way. What is still to be read (an
# `input`, or what was enqueued) may be huge: :reading says how many of these may still be sent.
_SEND_JOBS = text(f"""
WITH RECURSIVE producers AS (
  (SELECT j.producer FROM haulier.jobs j WHERE {_JOBS} ORDER BY j.producer LIMIT 1)
  UNION ALL
  SELECT following.* FROM producers, LATERAL (
    SELECT j.producer FROM haulier.jobs j WHERE {_JOBS} AND j.producer > producers.producer
    ORDER BY j.producer LIMIT 1) following
), busy AS (
  SELECT j.producer, count(*) AS jobs FROM haulier.jobs j
  WHERE (j.dispatched_at IS NOT NULL OR j.lease IS NOT NULL) AND {_JOBS}
  AND (j.dispatched_at >= now() - :again OR j.leased_until >= now())
  GROUP BY j.producer
), turns AS (
  SELECT first.id, first.priority, first.not_before, kind.reads,
    coalesce(busy.jobs, 0) + row_number() OVER (
      PARTITION BY p.producer ORDER BY first.priority DESC, first.not_before) AS turn
  FROM producers p LEFT JOIN busy ON busy.producer = p.producer
  CROSS JOIN (VALUES (false), (true)) AS kind(reads), LATERAL (
    SELECT j.id, j.priority, j.not_before FROM haulier.jobs j
    WHERE {_JOBS} AND j.producer = p.producer AND {_sendable("j")}
    AND j.state = ANY(CAST(:states AS text[])) AND (j.state = 'accepted') = kind.reads
    ORDER BY j.priority DESC, j.not_before LIMIT :limit) first
), chosen AS (
  SELECT id, turn, priority, not_before FROM (
    SELECT t.*, row_number() OVER (
      PARTITION BY reads ORDER BY turn, priority DESC, not_before) AS place FROM turns t) placed
  WHERE NOT reads OR place <= :reading
  ORDER BY turn, priority DESC, not_before LIMIT :limit
), picked AS (
  SELECT j.id FROM haulier.jobs j
  WHERE j.id IN (SELECT id FROM chosen) AND {_sendable("j")} FOR UPDATE SKIP LOCKED)
UPDATE haulier.jobs j SET dispatched_at = now() FROM picked WHERE j.id = picked.id
RETURNING j.id, j.state, j.account, j.priority, j.not_before
""")  # noqa: S608  constant words

_BEING_READ = text(f"""
SELECT count(*) FROM haulier.jobs j
WHERE (j.dispatched_at IS NOT NULL OR j.lease IS NOT NULL) AND {_JOBS}
AND j.state = 'accepted'
AND (j.dispatched_at >= now() - :again OR j.leased_until >= now())
""")  # noqa: S608  constant words


def dispatch(
    db: Database,
    row: type[Job | Batch],
    stages: frozenset[Stage],
    *,
    limit: int,
    again: timedelta,
    most_reads: int | None = None,
) -> list[Due]:
    """Stamp at most `limit` due rows of these stages and say which.

    Batches go by priority, then by how long they have been due; jobs take turns by producer, and
    of those whose requests are still to be read at most `most_reads` are under way at a time.
    A row that was stamped is taken again only after `again`, since its message may be lost.
    Safe to run from several schedulers at once.
    """
    if limit <= 0:
        return []
    with db.begin() as session:
        given: dict[str, Any] = {"limit": limit, "again": again}
        if row is Batch:
            given["states"] = [s.value for s, stage in BATCH_STAGES.items() if stage in stages]
            statement: TextClause = _SEND_BATCHES
        else:
            given["states"] = [s.value for s, stage in JOB_STAGES.items() if stage in stages]
            being_read = session.scalars(_BEING_READ, {"again": again}).one()
            given["reading"] = limit if most_reads is None else max(0, most_reads - being_read)
            statement = _SEND_JOBS
        stamped: Sequence[Any] = session.execute(statement, given).all()
    stamped = sorted(stamped, key=lambda found: (-found.priority, found.not_before))
    return [Due(_stage(found.state), found.id, found.account) for found in stamped]


def _stage(state: str) -> Stage:
    if state in set(BatchState):
        return BATCH_STAGES[BatchState(state)]
    return next(stage for known, stage in JOB_STAGES.items() if known == state)
