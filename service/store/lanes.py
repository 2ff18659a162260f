"""What Haulier has learned about each lane: how long batches take, and tokens per byte."""

from collections.abc import Iterable

from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.admission import LaneName
from service.rules.work import Usage
from service.store.models import Batch, Lane

MEMORY = 10
"""The number of batches that the moving averages cover."""


def learn_pace(session: Session, batch: Batch) -> None:
    """Add a batch that Together has just completed to the lane's average duration."""
    if batch.submitted_at is None:
        return
    added = insert(Lane).values(
        account=batch.account,
        model=batch.model,
        ended=1,
        seconds=func.extract("epoch", func.now() - batch.submitted_at),
    )
    # A plain mean at first, so that the first one counts for no more than the others.
    weight = func.least(Lane.ended + 1, MEMORY)
    mean = Lane.seconds + (added.excluded.seconds - Lane.seconds) / weight
    session.execute(
        added.on_conflict_do_update(
            index_elements=[Lane.account, Lane.model],
            set_={
                "ended": Lane.ended + 1,
                "seconds": func.coalesce(mean, added.excluded.seconds),
            },
        )
    )


def token_rates(session: Session, lanes: Iterable[LaneName]) -> dict[LaneName, float]:
    """Return tokens per byte of request lines, for lanes that have settled a batch."""
    rows = session.execute(
        select(Lane.account, Lane.model, Lane.tokens_per_byte).where(
            tuple_(Lane.account, Lane.model).in_(list(lanes)), Lane.tokens_per_byte.is_not(None)
        )
    )
    return {(account, model): float(rate or 0) for account, model, rate in rows}


def learn_tokens(session: Session, batch: Batch, usage: Usage) -> None:
    """Correct the lane's estimate by what a settled batch used."""
    served = batch.bytes * batch.succeeded / batch.requests
    if not usage.total_tokens or not served:
        return
    rate = usage.total_tokens / served
    known = func.coalesce(Lane.tokens_per_byte, rate)
    session.execute(
        insert(Lane)
        .values(account=batch.account, model=batch.model, tokens_per_byte=rate)
        .on_conflict_do_update(
            index_elements=["account", "model"],
            set_={"tokens_per_byte": known + (rate - known) / MEMORY},
        )
    )
