"""Letting many batches wait, in one statement: a page of polls mostly finds nothing new."""

import random
from collections.abc import Sequence
from dataclasses import fields
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    Interval,
    Text,
    Uuid,
    case,
    cast,
    column,
    exists,
    func,
    select,
    update,
)

from service.rules.errors import error_text
from service.rules.pace import spread
from service.rules.work import BatchClaim, Changes, Wait
from service.store.engine import Database
from service.store.models import Batch, Job

_LEARNED = {field.name: getattr(Batch, field.name).type for field in fields(Changes)}


def postpone(db: Database, waits: Sequence[tuple[BatchClaim, Wait]]) -> set[UUID]:
    """Commit these outcomes and give the leases back. Returns the ids whose lease was lost.

    Not for a batch of a blocked account, whose outcome says something about the account.
    """
    if not waits:
        return set()
    table = _table(waits)
    # Locked in one order, so that two who hold many rows at once never wait for each other.
    held = (
        select(Batch.id)
        .join(table, (Batch.id == table.c.id) & (Batch.lease == table.c.lease))
        .order_by(Batch.id)
        .with_for_update(of=Batch)
        .cte("held")
    )
    with db.begin() as session:
        written = session.scalars(
            update(Batch)
            .where(Batch.id == table.c.id, Batch.id.in_(select(held.c.id)))
            .values(
                lease=None,
                leased_until=None,
                dispatched_at=None,
                tries=0,
                failures=case((table.c.looked, 0), else_=Batch.failures),
                last_error=table.c.reason,
                not_before=case((_is_cancelled(), func.now()), else_=func.now() + table.c.pause),
                **{name: func.coalesce(table.c[name], getattr(Batch, name)) for name in _LEARNED},
            )
            .returning(Batch.id)
            .execution_options(synchronize_session=False)
        ).all()
    return {claim.id for claim, _ in waits} - set(written)


def _is_cancelled() -> ColumnElement[bool]:
    """A cancel passes over batches that are being worked on: it is for us to see that it came."""
    cancelled = exists().where(Job.id == Batch.job_id, Job.cancel_requested_at.is_not(None))
    return cancelled & ~Batch.cancel_sent


def _table(waits: Sequence[tuple[BatchClaim, Wait]]) -> Any:
    """The waits as rows that a statement can join; a column for each thing that may be new."""
    columns: dict[str, tuple[Any, list[Any]]] = {
        "id": (Uuid(), [claim.id for claim, _ in waits]),
        "lease": (Uuid(), [claim.lease for claim, _ in waits]),
        "pause": (
            Interval(),
            [spread(wait.delay, random.random()) for _, wait in waits],  # noqa: S311
        ),
        "looked": (Boolean(), [wait.looked for _, wait in waits]),
        "reason": (Text(), [wait.reason and error_text(wait.reason) for _, wait in waits]),
    }
    for name, kind in _LEARNED.items():
        columns[name] = (kind, [getattr(wait.changes, name) for _, wait in waits])
    arrays = [cast(values, ARRAY(kind)) for kind, values in columns.values()]
    named = [column(name, kind) for name, (kind, _) in columns.items()]
    return func.unnest(*arrays).table_valued(*named).render_derived("waits")
