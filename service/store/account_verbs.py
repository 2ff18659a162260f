"""What operators do to accounts."""

from sqlalchemy import func, select, update

from service.rules.errors import Conflict
from service.rules.states import BatchState
from service.store.audit import Actor, path, record
from service.store.engine import Database
from service.store.models import Account, Batch

MOST_ASKED = 1_000
"""The most batches whose own waits end with a probe."""


def probe(db: Database, name: str, *, by: Actor | None) -> Account:
    """End the pause of an account now: "I have topped up, try again".

    Of an account that Together refuses, the next batch goes as a probe; if it is served, all others
    follow. Raises Conflict if the account is not paused.
    """
    waiting = (
        select(Batch.id)
        .where(Batch.account == name, Batch.state.in_((BatchState.QUEUED, BatchState.UPLOADED)))
        .where(Batch.parked_at.is_(None), Batch.lease.is_(None), Batch.not_before > func.now())
        .order_by(Batch.not_before)
        .limit(MOST_ASKED)
        .with_for_update(skip_locked=True)
        .cte("waiting")
    )
    with db.begin() as session:
        # What found no credit waits for longer than its account. Batches are locked first.
        session.execute(
            update(Batch)
            .where(Batch.id.in_(select(waiting.c.id)))
            .values(not_before=func.now(), dispatched_at=None)
        )
        account = session.scalar(
            select(Account)
            .where(Account.name == name)
            .where((Account.paused_until > func.now()) | Account.blocked_since.is_not(None))
            .with_for_update()
        )
        if account is None:
            raise Conflict(f"the account {name!r} is not paused")
        until = account.paused_until
        before = {"paused_until": until and until.isoformat(), "reason": account.reason}
        account.paused_until = func.now()
        account.refusals = 0
        record(session, by, "probe", path("accounts", name), before=before)
        session.flush()
        session.refresh(account)
        return account
