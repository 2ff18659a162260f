"""Lanes: how long batches take, tokens per byte, and whether the queue at Together is full."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.admission import LaneName
from service.rules.errors import error_text
from service.rules.outcomes import Hold, Usage
from service.rules.retry import backoff
from service.store.models import Batch, Lane, Part

_KEY = ["account", "endpoint", "model"]

MEMORY = 10
"""The number of batches that the moving averages cover."""


def learn_pace(session: Session, batch: Batch) -> None:
    """Add a batch that Together has just completed to the lane's average duration."""
    if batch.submitted_at is None:
        return
    added = insert(Lane).values(
        account=batch.account,
        endpoint=batch.endpoint,
        model=batch.model,
        ended=1,
        seconds=func.extract("epoch", func.now() - batch.submitted_at),
    )
    # A plain mean at first, so that the first one counts for no more than the others.
    weight = func.least(Lane.ended + 1, MEMORY)
    mean = Lane.seconds + (added.excluded.seconds - Lane.seconds) / weight
    session.execute(
        added.on_conflict_do_update(
            index_elements=_KEY,
            set_={
                "ended": Lane.ended + 1,
                "seconds": func.coalesce(mean, added.excluded.seconds),
            },
        )
    )


def token_rates(session: Session, lanes: Iterable[LaneName]) -> dict[LaneName, float]:
    """Return tokens per byte of request lines, for lanes that have settled a batch."""
    rows = session.execute(
        select(Lane.account, Lane.endpoint, Lane.model, Lane.tokens_per_byte).where(
            tuple_(Lane.account, Lane.endpoint, Lane.model).in_(list(lanes)),
            Lane.tokens_per_byte.is_not(None),
        )
    )
    return {(account, endpoint, model): float(rate or 0) for account, endpoint, model, rate in rows}


def learn_tokens(session: Session, batch: Batch, usage: Usage) -> None:
    """Correct the lane's estimate by what a settled batch used."""
    served = batch.bytes * batch.succeeded / batch.requests
    if not usage.total_tokens or not served:
        return
    rate = usage.total_tokens / served
    known = func.coalesce(Lane.tokens_per_byte, rate)
    session.execute(
        insert(Lane)
        .values(
            account=batch.account,
            endpoint=batch.endpoint,
            model=batch.model,
            tokens_per_byte=rate,
        )
        .on_conflict_do_update(
            index_elements=_KEY,
            set_={"tokens_per_byte": known + (rate - known) / MEMORY},
        )
    )


def lane_of(
    batch: type[Batch | Part] | Batch | Part, lane: type[Lane] = Lane
) -> ColumnElement[bool]:
    """Match the lane of a batch."""
    return and_(
        lane.account == batch.account,
        lane.endpoint == batch.endpoint,
        lane.model == batch.model,
    )


def hold_lane(session: Session, batch: Batch, outcome: Hold, retry_base: timedelta) -> datetime:
    """Send nothing into a lane whose queue is full, longer each time. Return until when.

    What was sent before the lane was held, and is refused as well, counts as the same refusal.
    """
    session.execute(
        insert(Lane)
        .values(account=batch.account, endpoint=batch.endpoint, model=batch.model)
        .on_conflict_do_nothing()
    )
    lane, now = session.execute(
        select(Lane, func.now()).where(lane_of(batch)).with_for_update()
    ).one()
    if lane.held_until is None or lane.held_until <= now:
        lane.refusals += 1
        named = outcome.delay
        pause = named if named is not None else backoff(lane.refusals, retry_base, 1.0)
        lane.held_until = now + pause
    lane.reason = error_text(outcome.reason)
    return lane.held_until


def release_lane(session: Session, batch: Batch) -> None:
    """Let a lane go on, since a batch has just been created in it."""
    session.execute(
        update(Lane).where(lane_of(batch)).values(held_until=None, reason=None, refusals=0)
    )
