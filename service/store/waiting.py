"""Why a job waits, for whoever asks. Looks, and keeps nothing: waiting costs nothing."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.rules.admission import TOKENS_PER_BYTE, Capacity
from service.rules.states import OPEN_BATCH_STATES, JobState
from service.store.admit import load
from service.store.engine import Database
from service.store.lanes import token_rates
from service.store.models import Account, Batch, Job


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why nothing of a job is under way. `code` is stable, `detail` is for people.

    `until` is when that ends by itself, where it is known.
    """

    code: str
    detail: str
    until: datetime | None = None


def why(db: Database, job: Job, capacity: Capacity) -> Reason | None:
    """Return what a job waits for, or None if it is being worked on or has ended."""
    if job.parked_at is not None:
        return _parked(job)
    if job.state is JobState.ACCEPTED:
        return Reason(code="worker", detail="waits for a worker to cut it into batches")
    if job.state is not JobState.RUNNING:
        return None
    with db.begin() as session:
        open_batches = select(Batch).where(
            Batch.job_id == job.id, Batch.state.in_(OPEN_BATCH_STATES)
        )
        first = session.scalar(open_batches.order_by(Batch.not_before).limit(1))
        if first is None:
            return Reason(code="worker", detail="waits for a worker to put its results together")
        pause = _pause(session, first.account)
        if pause is not None:
            return pause
        under_way = open_batches.where(Batch.parked_at.is_(None), Batch.admitted_at.is_not(None))
        if session.scalar(under_way.limit(1)) is not None:
            return None
        return _not_let_in(session, first, capacity)


def _parked(row: Job | Batch) -> Reason:
    return Reason(code="parked", detail=f"only an operator can help: {row.last_error}")


def _pause(session: Session, name: str) -> Reason | None:
    account = session.scalar(
        select(Account).where(Account.name == name, Account.paused_until > func.now())
    )
    if account is None:
        return None
    detail = f"account {name} is paused: {account.reason}"
    return Reason(code="account_paused", detail=detail, until=account.paused_until)


def _not_let_in(session: Session, batch: Batch, capacity: Capacity) -> Reason:
    if batch.parked_at is not None:
        return _parked(batch)
    if batch.not_before > session.scalars(select(func.now())).one():
        return Reason(code="retry", detail="pauses before another attempt", until=batch.not_before)
    name = (batch.account, batch.model)
    lane = load(session).lanes[name]
    tokens = round(batch.bytes * token_rates(session, [name]).get(name, TOKENS_PER_BYTE))
    where = f"account {batch.account} has"
    match lane.lacks(capacity, tokens):
        case "batches":
            detail = f"{where} {lane.batches:,} batches of {batch.model} under way, its limit"
            return Reason(code="inflight_batches", detail=detail)
        case "tokens":
            detail = (
                f"{where} {lane.tokens:,} of {capacity.tokens:,} tokens of {batch.model} enqueued"
            )
            return Reason(code="enqueued_tokens", detail=f"{detail}; the next needs {tokens:,}")
    return Reason(code="turn", detail="waits for its turn to be uploaded, behind other work")
