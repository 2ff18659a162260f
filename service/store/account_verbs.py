"""What operators do to accounts."""

from sqlalchemy import Select, func, select, update
from sqlalchemy.dialects.postgresql import insert

from service.rules.errors import Conflict
from service.rules.states import BatchState
from service.store.audit import Actor, path, record
from service.store.engine import Database
from service.store.models import Account, Batch

MOST_ASKED = 1_000
"""The most batches whose own waits end with a probe."""


class StoppedByOperator(Conflict):
    """An operator has paused the account: that says nothing of Together, so no probe ends it."""


def pause(db: Database, name: str, reason: str, *, by: Actor | None) -> Account:
    """Let nothing be sent to an account until an operator resumes it, whatever Together says.

    What Together holds is still polled and fetched. A second pause changes the reason.
    """
    with db.begin() as session:
        session.execute(insert(Account).values(name=name).on_conflict_do_nothing())
        account = session.scalars(_named(name)).one()
        before = _shown(account)
        if account.paused_at is None:
            account.paused_at = func.now()
        account.pause_reason = reason
        after = {"paused": True, "reason": reason}
        record(session, by, "pause", path("accounts", name), before=before, after=after)
        session.flush()
        session.refresh(account)
        return account


def resume(db: Database, name: str, *, by: Actor | None) -> Account:
    """End an operator's pause of an account. What Together refuses stays refused.

    Raises Conflict if no operator has paused it.
    """
    with db.begin() as session:
        account = session.scalar(_named(name))
        if account is None or account.paused_at is None:
            raise Conflict(
                f"no operator has paused the account {name!r}; a probe ends the pause of an"
                " account that Together refuses"
            )
        before = _shown(account)
        account.paused_at = account.pause_reason = None
        after = {"paused": False, "reason": None}
        record(session, by, "resume", path("accounts", name), before=before, after=after)
        session.flush()
        session.refresh(account)
        return account


def _named(name: str) -> Select[Account]:
    return select(Account).where(Account.name == name).with_for_update()


def _shown(account: Account) -> dict[str, str | bool | None]:
    return {"paused": account.paused_at is not None, "reason": account.pause_reason}


def probe(db: Database, name: str, *, by: Actor | None) -> Account:
    """End the pause of an account now: "I have topped up, try again".

    Of an account that Together refuses, the next batch goes as a probe; if it is served, all others
    follow. Raises Conflict if Together has not paused the account, and StoppedByOperator if an
    operator has.
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
        if session.scalar(select(Account.paused_at).where(Account.name == name)) is not None:
            raise StoppedByOperator(f"an operator has paused the account {name!r}; resume it first")
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
