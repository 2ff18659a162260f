"""The one writer of Wait: for a single batch and for a page of them, in one statement."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Boolean,
    Interval,
    Text,
    Uuid,
    any_,
    bindparam,
    case,
    column,
    func,
    select,
    update,
)
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from service.rules.errors import error_text
from service.rules.outcomes import Changes, Wait
from service.rules.pace import spread
from service.rules.states import OPEN_BATCH_STATES
from service.rules.work import BatchClaim, Ending
from service.store.engine import Database
from service.store.models import Batch

_LEARNED = {field.name: getattr(Batch, field.name).type for field in fields(Changes)}


def wait(db: Database, waits: Sequence[tuple[BatchClaim, Wait]]) -> set[UUID]:
    """Commit these outcomes and give the leases back. Return the ids whose lease was lost.

    Not for a batch of a blocked account: its outcome says something about the account as well.
    """
    if not waits:
        return set()
    with db.begin() as session:
        return write_waits(session, waits)


def write_waits(session: Session, waits: Sequence[tuple[BatchClaim, Wait]]) -> set[UUID]:
    """Write Wait outcomes within a transaction. Return the ids whose lease was lost."""
    kept = set(session.scalars(_WRITE, _arrays(waits)))
    hurry_cancelled(session, [claim for claim, _ in waits if claim.id in kept])
    return {claim.id for claim, _ in waits} - kept


TO_END: Mapping[Any, Any] = {
    Batch.ending: Ending.CANCELLED,
    # An unanswered create has to be looked for in its own time.
    Batch.not_before: case((Batch.create_deadline.is_(None), func.now()), else_=Batch.not_before),
    # What waited for an operator is looked at once more, and then it ends.
    Batch.parked_at: None,
    Batch.tries: 0,
    Batch.faults: 0,
    Batch.not_there: 0,
    Batch.refusals: 0,
}
"""What a cancel writes into each open batch of which all jobs are cancelled."""


def hurry_cancelled(session: Session, claims: Sequence[BatchClaim]) -> None:
    """Make batches due at once that were cancelled while a worker held them.

    A claim that already saw the cancel has acted on it.
    """
    unaware = [claim.id for claim in claims if not claim.cancel_requested]
    if not unaware:
        return
    session.flush()
    session.execute(_HURRY, {"ids": unaware})


_HURRY = (
    update(Batch)
    .where(Batch.id == any_(bindparam("ids", type_=ARRAY(Uuid))), Batch.cancelled_at.is_not(None))
    .where(Batch.state.in_(OPEN_BATCH_STATES))
    .values(TO_END)
    .execution_options(synchronize_session=False)
)


def _arrays(waits: Sequence[tuple[BatchClaim, Wait]]) -> dict[str, list[Any]]:
    """The waits as columns of a table that a statement can join, each an array."""
    learned = {name: [getattr(wait.changes, name) for _, wait in waits] for name in _LEARNED}
    return {f"of_{name}": values for name, values in learned.items()} | {
        "of_id": [claim.id for claim, _ in waits],
        "of_lease": [claim.lease for claim, _ in waits],
        "of_pause": [spread(wait.delay, random.random()) for _, wait in waits],  # noqa: S311
        "of_looked": [wait.looked for _, wait in waits],
        "of_reason": [wait.reason and error_text(wait.reason) for _, wait in waits],
    }


def _write() -> ReturningUpdate[UUID]:
    columns = {
        "id": Uuid(),
        "lease": Uuid(),
        "pause": Interval(),
        "looked": Boolean(),
        "reason": Text(),
        **_LEARNED,  # a column for each thing that may be new
    }
    arrays = [bindparam(f"of_{name}", type_=ARRAY(kind)) for name, kind in columns.items()]
    named = [column(name, kind) for name, kind in columns.items()]
    table = func.unnest(*arrays).table_valued(*named).render_derived("waits")
    # Everybody locks rows in this order, so that two pages never wait for each other.
    held = (
        select(Batch.id)
        .join(table, (Batch.id == table.c.id) & (Batch.lease == table.c.lease))
        .order_by(Batch.id)
        .with_for_update(of=Batch)
        .cte("held")
    )
    return (
        update(Batch)
        .where(Batch.id == table.c.id, Batch.id.in_(select(held.c.id)))
        .values(
            lease=None,
            leased_until=None,
            dispatched_at=None,
            tries=0,
            failures=case((table.c.looked, 0), else_=Batch.failures),
            faults=case((table.c.looked, 0), else_=Batch.faults),
            not_there=case((table.c.looked, 0), else_=Batch.not_there),
            refusals=case((table.c.looked, 0), else_=Batch.refusals),
            last_error=table.c.reason,
            not_before=func.now() + table.c.pause,
            **{name: func.coalesce(table.c[name], getattr(Batch, name)) for name in _LEARNED},
        )
        .returning(Batch.id)
        .execution_options(synchronize_session=False)
    )


_WRITE = _write()
