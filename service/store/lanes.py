"""What is known of each model under each account."""

from collections.abc import Iterable

from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.admission import LaneName
from service.rules.work import Usage
from service.store.models import Batch, Lane

MEMORY = 10
"""How many batches the moving averages look back on."""


def learn_pace(session: Session, batch: Batch) -> None:
    """Count a batch that Together completed just now into how long such batches take."""
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
    """Tokens for each byte of request lines, as far as usage has told."""
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
