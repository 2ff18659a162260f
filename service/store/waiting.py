"""Why a job waits, for whoever asks. Looks, and keeps nothing: waiting costs nothing."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from service.rules.admission import TOKENS_PER_BYTE, Capacity
from service.rules.lanes import next_step
from service.rules.packing import LARGE, Limits
from service.rules.retry import MANY_FAILURES, trouble_words
from service.rules.states import BatchState, JobState, LaneState, PartState
from service.store import engine
from service.store.admit import load
from service.store.engine import Database
from service.store.health import health_of
from service.store.lanes import lane_of, token_rates
from service.store.models import Account, Batch, Job, Lane, Part, Producer


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why nothing of a job is under way. `code` is stable, `detail` is for people.

    `until` is when that ends by itself, where it is known.
    """

    code: str
    detail: str
    until: datetime | None = None
    error: str | None = None
    """The last error of the row that keeps the job, if it is an error that does."""


def why(db: Database, job: Job, capacity: Capacity, limits: Limits) -> Reason | None:
    """Return what a job waits for, or None if it is being worked on or has ended.

    A row that is parked, or fails again and again, is told even while others are in progress.
    """
    stopped = _stopped(job)
    if stopped is not None:
        return stopped
    if job.state is JobState.ACCEPTED:
        return _to_be_read(db, job)
    if job.state is not JobState.RUNNING:
        return None
    with db.begin() as session:
        in_batches = select(Part.batch_id).where(
            Part.job_id == job.id, Part.state == PartState.TRAVELLING
        )
        open_batches = select(Batch).where(Batch.id.in_(in_batches))
        stuck = session.scalar(
            open_batches.where(or_(Batch.parked_at.is_not(None), Batch.failures >= MANY_FAILURES))
            .order_by(Batch.parked_at, Batch.failures.desc())
            .limit(1)
        )
        first = session.scalar(open_batches.order_by(Batch.not_before).limit(1))
        part = session.scalar(
            select(Part)
            .where(Part.job_id == job.id, Part.state == PartState.WAITING)
            .order_by(Part.ready_at)
            .limit(1)
        )
        if first is None and part is None:
            return Reason(code="worker", detail="waits for a worker to put its results together")
        if stuck is not None and stuck.parked_at is not None:
            return _parked(stuck)
        pause = (
            _stop(session, job.account, first, part)
            or _pause(session, job.account)
            or _hold(session, first, part)
            or _not_healthy(session, part)
        )
        if pause is not None:
            return pause
        if stuck is not None:
            return _failing(stuck)
        if part is None or _is_under_way(session, open_batches):
            return None
        return _short(session, job) or _not_let_in(session, part, capacity, limits)


_UNSENT = frozenset({BatchState.QUEUED, BatchState.UPLOADED})


def _stopped(job: Job) -> Reason | None:
    """Return what keeps the job's own row."""
    if job.parked_at is not None:
        return _parked(job)
    if job.finished_at is None and job.failures >= MANY_FAILURES:
        return _failing(job)
    return None if job.held_at is None else _held(job)


def _is_under_way(session: Session, open_batches: Select[Batch]) -> bool:
    return session.scalar(open_batches.where(Batch.parked_at.is_(None)).limit(1)) is not None


def _to_be_read(db: Database, job: Job) -> Reason:
    was_tried = job.tries or job.failures or job.last_error is not None
    if not was_tried and job.not_before > engine.clock(db):
        return _told_to_wait(job.not_before)
    return Reason(code="worker", detail="waits for a worker to read its requests")


def _told_to_wait(until: datetime) -> Reason:
    at = until.astimezone(UTC)
    detail = f"is not to begin before {at:%Y-%m-%d %H:%M:%S} UTC, as its message asks"
    return Reason(code="not_before", detail=detail, until=until)


def _parked(row: Job | Batch) -> Reason:
    detail = f"only an operator can help: {row.last_error}"
    return Reason(code="parked", detail=detail, error=row.last_error)


def _held(job: Job) -> Reason:
    detail = (
        f"{job.failed:,} of the first {job.canary:,} requests failed, and {job.canary_failures:,}"
        " may: the others are held until somebody releases them, or cancels the job"
    )
    return Reason(code="held", detail=detail)


def _failing(row: Job | Batch) -> Reason:
    detail = f"{row.failures:,} tries in a row have failed, the last one with: {row.last_error}"
    return Reason(code="failing", detail=detail, until=row.not_before, error=row.last_error)


def _pause(session: Session, name: str) -> Reason | None:
    account = session.scalar(
        select(Account).where(Account.name == name, Account.paused_until > func.now())
    )
    if account is None:
        return None
    detail = f"account {name} is paused: {account.reason}"
    return Reason(code="account_paused", detail=detail, until=account.paused_until)


def _stop(session: Session, name: str, batch: Batch | None, part: Part | None) -> Reason | None:
    """Return that an operator has paused the account, if what comes next is to be sent."""
    if part is None and (batch is None or batch.state not in _UNSENT):
        return None
    account = session.scalar(
        select(Account).where(Account.name == name, Account.paused_at.is_not(None))
    )
    if account is None:
        return None
    detail = f"an operator has paused account {name}: {account.pause_reason}"
    return Reason(code="account_stopped", detail=detail)


def _short(session: Session, job: Job) -> Reason | None:
    """Return why nothing may be spent for a job."""
    if job.short_reason is not None:
        return Reason(code="max_cost", detail=f"the job's `max_cost`: {job.short_reason}")
    producer = session.scalar(
        select(Producer).where(Producer.name == job.producer, Producer.short_until > func.now())
    )
    if producer is None:
        return None
    detail = f"the {producer.short_reason}"
    return Reason(code="budget", detail=detail, until=producer.short_until)


def _hold(session: Session, batch: Batch | None, part: Part | None) -> Reason | None:
    if batch is not None and batch.state not in _UNSENT:
        return None
    row = batch or part
    if row is None:
        return None
    lane = session.scalar(select(Lane).where(lane_of(row), Lane.held_until > func.now()))
    if lane is None:
        return None
    detail = f"Together's queue for {row.model} is full: {lane.reason}"
    return Reason(code="lane_held", detail=detail, until=lane.held_until)


def _not_healthy(session: Session, part: Part | None) -> Reason | None:
    """Why the lane of a waiting part admits nothing, whatever of the job is under way."""
    lane = None if part is None else session.scalar(select(Lane).where(lane_of(part)))
    if part is None or lane is None:
        return None
    if lane.paused_at is not None:
        return Reason(code="lane_paused", detail=f"an operator has paused {part.model}")
    if lane.state is LaneState.HEALTHY:
        return None
    health = health_of(lane)
    found = health.evidence
    words = "" if found is None else f" ({trouble_words(found.text)})"
    detail = (
        f"requests for {part.model} failed alike in several jobs{words}, so the lane is"
        f" {lane.state}: {next_step(health, paused=False)}"
    )
    return Reason(code=f"lane_{lane.state}", detail=detail, until=lane.until)


def _not_let_in(session: Session, part: Part, capacity: Capacity, limits: Limits) -> Reason:
    now = session.scalars(select(func.now())).one()
    if part.ready_at > now and part.parent_id is None:
        return _told_to_wait(part.ready_at)
    if part.ready_at > now:
        return Reason(code="retry", detail="pauses before another attempt", until=part.ready_at)
    name = (part.account, part.endpoint, part.model)
    lane = load(session).lanes[name]
    tokens = round(part.bytes * token_rates(session, [name]).get(name, TOKENS_PER_BYTE))
    where = f"account {part.account} has"
    match lane.lacks(capacity, tokens):
        case "batches":
            detail = f"{where} {lane.batches:,} batches of {part.model} under way, its limit"
            return Reason(code="inflight_batches", detail=detail)
        case "tokens":
            detail = (
                f"{where} {lane.tokens:,} of {capacity.tokens:,} tokens of {part.model} enqueued"
            )
            return Reason(code="enqueued_tokens", detail=f"{detail}; the next needs {tokens:,}")
    until = part.patient_until or part.ready_at + limits.wait
    if until > now and part.requests <= LARGE:
        detail = "waits for other small jobs to share a batch with"
        return Reason(code="packing", detail=detail, until=until)
    return Reason(code="turn", detail="waits for its turn to be uploaded, behind other work")
