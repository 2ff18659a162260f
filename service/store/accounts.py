"""Pause accounts, and reopen them after a probe."""

from datetime import datetime, timedelta

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.errors import error_text
from service.rules.outcomes import Advance, Hold, Outcome, Pause, Retry, Settle, Wait
from service.rules.retry import backoff
from service.rules.states import OPEN_BATCH_STATES, BatchState
from service.rules.work import BatchClaim
from service.store.engine import Database
from service.store.models import Account, Batch


def accounts(db: Database) -> list[Account]:
    """Return every account that was ever paused."""
    with db.begin() as session:
        return list(session.scalars(select(Account)))


def stopped(db: Database) -> frozenset[str]:
    """Return the names of the accounts that an operator has paused."""
    with db.begin() as session:
        names = session.scalars(select(Account.name).where(Account.paused_at.is_not(None)))
        return frozenset(names)


def pause_account(
    session: Session, name: str, outcome: Pause, probe: timedelta, *, probing: bool
) -> datetime:
    """Pause the account: for a time that Together named, or longer each time it refuses.

    Returns until when.
    """
    account = session.scalar(select(Account).where(Account.name == name).with_for_update())
    if account is None:
        session.execute(insert(Account).values(name=name).on_conflict_do_nothing())
        account = session.scalars(
            select(Account).where(Account.name == name).with_for_update()
        ).one()
    now = session.scalars(select(func.now())).one()
    account.reason = error_text(outcome.reason)
    if outcome.blocked:
        if probing or account.blocked_since is None:
            account.refusals += 1
        account.blocked_since = account.blocked_since or now
        account.spending = outcome.spending
        account.paused_until = now + backoff(account.refusals, probe, 1.0)
    else:
        until = now + (outcome.delay if outcome.delay is not None else probe)
        account.paused_until = max(account.paused_until or now, until)
    return account.paused_until


def probed(session: Session, claim: BatchClaim, outcome: Outcome) -> None:
    """Reopen a blocked account after a batch came through, or let the next batch probe it."""
    account = session.scalar(
        select(Account)
        .where(Account.name == claim.account, Account.blocked_since.is_not(None))
        .with_for_update()
    )
    if account is None:
        return
    account.paused_until = func.now()
    if account.spending:
        # Only spending proves that spending is allowed again.
        proven = isinstance(outcome, Advance) and outcome.to is BatchState.CREATED
    else:
        # A batch that Together refused although its key works proves that the key works.
        proven = isinstance(outcome, Wait | Advance | Settle | Hold) or (
            isinstance(outcome, Retry) and outcome.refused
        )
    if proven:
        # What was sent and came to nothing meanwhile need not wait until its messages expire.
        unheld = (
            select(Batch.id)
            .where(Batch.account == claim.account, Batch.state.in_(OPEN_BATCH_STATES))
            .where(Batch.dispatched_at.is_not(None), Batch.lease.is_(None))
            # Not waited for: whoever has a batch may wait for the account's row.
            .with_for_update(skip_locked=True)
            .cte("unheld")
        )
        session.execute(
            update(Batch).where(Batch.id.in_(select(unheld.c.id))).values(dispatched_at=None)
        )
        account.paused_until = account.blocked_since = account.reason = None
        account.spending = False
        account.refusals = 0
