"""Choose the rows to send to the workers next. The caller publishes them after the commit."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, literal_column, or_, select, update

from service.rules.states import BATCH_STAGES, JOB_STAGES, BatchState, JobState, Stage
from service.store.claim import is_free, may_be_sent
from service.store.engine import Database
from service.store.models import Batch, Job


@dataclass(frozen=True)
class Due:
    """A row that was stamped as dispatched."""

    stage: Stage
    id: UUID
    account: str


def _in_stage(row: type[Job | Batch], stages: Iterable[Stage]) -> ColumnElement[bool]:
    """The rows that stand before one of the stages; of queued batches, those that were let in.

    As plain text, so that the planner sees that the partial index holds them all.
    """
    table = row.__tablename__
    if row is Batch:
        states = [f"'{state}'" for state, stage in BATCH_STAGES.items() if stage in stages]
        let_in = f"({table}.state <> 'queued' OR {table}.admitted_at IS NOT NULL)"
        return literal_column(f"({table}.state IN ({', '.join(sorted(states))}) AND {let_in})")
    where = [
        f"{table}.state = '{JobState.ACCEPTED}'"
        if stage is Stage.SPLIT
        else f"({table}.state = '{JobState.RUNNING}' AND {table}.open_batches = 0)"
        for stage in sorted(stages)
    ]
    return literal_column(f"({' OR '.join(where)})")


def dispatch(
    db: Database, row: type[Job | Batch], stages: frozenset[Stage], *, limit: int, again: timedelta
) -> list[Due]:
    """Stamp at most `limit` due rows, highest priority first, and say which.

    A row that was stamped before is taken again only after `again`, when its message has expired.
    Safe to run from several schedulers at once.
    """
    if limit <= 0:
        return []
    due = (
        select(row.id)
        .where(_in_stage(row, stages), is_free(row))
        .where(or_(row.dispatched_at.is_(None), row.dispatched_at < func.now() - again))
        .order_by(row.priority.desc(), row.not_before)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    if row is Batch:
        due = due.where(may_be_sent(Batch))
    # As a CTE it runs once: a plan that ran a subquery for each row would lock beyond the limit.
    picked = due.cte("picked")
    with db.begin() as session:
        stamped = session.execute(
            update(row)
            .where(row.id.in_(select(picked.c.id)))
            .values(dispatched_at=func.now())
            .returning(row.id, row.state, row.account)
        ).all()
    return [Due(_stage(state), row_id, account) for row_id, state, account in stamped]


def _stage(state: Any) -> Stage:
    if isinstance(state, BatchState):
        return BATCH_STAGES[state]
    return JOB_STAGES[state]


def outstanding(
    db: Database, row: type[Job | Batch], stages: frozenset[Stage], *, again: timedelta
) -> int:
    """Count the rows of these stages that are on their way to a worker or held by one."""
    with db.begin() as session:
        return session.scalars(
            select(func.count())
            .select_from(row)
            .where(_in_stage(row, stages), row.parked_at.is_(None))
            .where(
                or_(
                    row.dispatched_at >= func.now() - again,
                    and_(row.lease.is_not(None), row.leased_until > func.now()),
                )
            )
        ).one()
