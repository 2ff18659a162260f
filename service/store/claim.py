"""Taking rows to work on: the first of the two short transactions of every stage."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import ColumnElement, and_, exists, func, or_, select, update
from sqlalchemy.orm import Session

from service.errors import StaleLease
from service.models import Account, Batch, Job
from service.states import BATCH_STAGES, JOB_STAGES, BatchState, JobState, Stage
from service.store.engine import Database
from service.work import BatchClaim, Claim, FinalLines, JobClaim, Shard

_BATCH_STATES = {stage: state for state, stage in BATCH_STAGES.items()}
_JOB_STATES = {stage: state for state, stage in JOB_STAGES.items()}


def is_free(row: type[Job | Batch]) -> ColumnElement[bool]:
    """Nobody is on the row, and it is due."""
    return and_(
        row.parked_at.is_(None),
        row.not_before <= func.now(),
        or_(row.lease.is_(None), row.leased_until < func.now()),
    )


def account_is_open(row: type[Batch]) -> ColumnElement[bool]:
    return ~exists().where(Account.paused_until > func.now(), _holds(row))


def _holds(row: type[Batch]) -> ColumnElement[bool]:
    """Whether a pause of the account holds for the row."""
    return and_(
        Account.name == row.account,
        or_(
            ~Account.spending,
            row.state.in_([BatchState.QUEUED, BatchState.UPLOADED]),
        ),
    )


def claim_job(db: Database, job_id: UUID, stage: Stage, lease_for: timedelta) -> JobClaim | None:
    """Lease a job for a stage; None where it is not due, not in that stage, or taken."""
    with db.begin() as session:
        found = session.execute(
            select(Job, func.now())
            .where(Job.id == job_id, Job.state == _JOB_STATES[stage], is_free(Job))
            .where(Job.open_batches == 0)
            .with_for_update(skip_locked=True, key_share=True)
        ).one_or_none()
        if found is None:
            return None
        job, now = found
        lease, until = _take(job, now + lease_for)
        return JobClaim(
            id=job.id,
            lease=lease,
            leased_until=until,
            state=job.state,
            tries=job.tries,
            endpoint=job.endpoint,
            account=job.account,
            max_attempts=job.max_attempts,
            input=job.input,
            shards=_shards(job),
            cancel_requested=job.cancel_requested_at is not None,
            final_lines=_final_lines(session.scalars(_settled(job_id)).all())
            if job.state is JobState.RUNNING
            else (),
        )


def claim_batches(
    db: Database, ids: Sequence[UUID], stage: Stage, lease_for: timedelta
) -> list[BatchClaim]:
    """Lease those of the batches that are due for the stage and free.

    For `create` this commits the intent: from here on Together may hold the batch.
    """
    with db.begin() as session:
        rows = session.execute(
            select(
                Batch,
                Job.endpoint,
                Job.max_attempts,
                Job.cancel_requested_at,
                func.now(),
                exists().where(Account.blocked_since.is_not(None), _holds(Batch)),
            )
            .join(Job, Job.id == Batch.job_id)
            .where(Batch.id.in_(ids), Batch.state == _BATCH_STATES[stage])
            .where(is_free(Batch), account_is_open(Batch))
            .with_for_update(of=Batch, skip_locked=True)
        ).all()
        claims: list[BatchClaim] = []
        if any(blocked for *_, blocked in rows):
            rows = rows[:1] if _may_probe(session, rows[0][0].account, lease_for) else []
        for batch, endpoint, max_attempts, cancel_requested_at, now, blocked in rows:
            earlier = batch.create_deadline
            lease, until = _take(batch, now + lease_for)
            cancelled = cancel_requested_at is not None
            if batch.state is BatchState.UPLOADED and earlier is None and not cancelled:
                batch.create_deadline = until
            claims.append(
                BatchClaim(
                    id=batch.id,
                    job_id=batch.job_id,
                    lease=lease,
                    leased_until=until,
                    now=now,
                    state=batch.state,
                    shard=batch.shard,
                    attempt=batch.attempt,
                    tries=batch.tries,
                    failures=batch.failures,
                    poison=batch.poison,
                    twin_error=_twin_error(session, batch),
                    suspects=_suspects(session, batch),
                    endpoint=endpoint,
                    account=batch.account,
                    account_blocked=blocked,
                    model=batch.model,
                    max_attempts=max_attempts,
                    requests=batch.requests,
                    input_blob=batch.input_blob,
                    manifest_blob=batch.manifest_blob,
                    upload_bytes=batch.bytes,
                    cancel_requested=cancelled,
                    create_deadline=earlier,
                    spent_file_ids=tuple(batch.spent_file_ids),
                    input_file_id=batch.input_file_id,
                    provider_batch_id=batch.provider_batch_id,
                    provider_status=batch.provider_status,
                    provider_error=batch.provider_error,
                    output_file_id=batch.output_file_id,
                    error_file_id=batch.error_file_id,
                    cancel_sent=batch.cancel_sent,
                )
            )
        return claims


def _may_probe(session: Session, account: str, lease_for: timedelta) -> bool:
    """Of a blocked account one batch goes through at a time, and the others wait for how it fares.

    A page of batches is one account's.
    """
    return (
        session.scalar(
            update(Account)
            .where(
                Account.name == account,
                Account.blocked_since.is_not(None),
                Account.paused_until <= func.now(),
            )
            .values(paused_until=func.now() + lease_for)
            .returning(Account.name)
        )
        is not None
    )


def _twin_error(session: Session, batch: Batch) -> str | None:
    if batch.poison < 2:
        return None
    return session.scalar(
        select(Batch.provider_error).where(
            Batch.job_id == batch.job_id,
            Batch.shard == batch.shard,
            Batch.parent_id == batch.parent_id,
            Batch.id != batch.id,
            Batch.provider_status == "FAILED",
        )
    )


def _suspects(session: Session, batch: Batch) -> int:
    if batch.poison == 0:
        return 0
    return session.scalars(
        select(func.count())
        .select_from(Batch)
        .where(Batch.job_id == batch.job_id, Batch.shard == batch.shard, Batch.poison > 0)
    ).one()


def _take(row: Job | Batch, until: datetime) -> tuple[UUID, datetime]:
    if row.lease is not None:
        # The last worker on it never said what became of it: perhaps the work killed it.
        row.tries += 1
    lease = uuid4()
    row.lease = lease
    row.leased_until = until
    row.dispatched_at = None
    return lease, until


def extend(db: Database, claim: Claim, lease_for: timedelta) -> None:
    """Extend a lease. Raises StaleLease if somebody else has the row by now."""
    row: type[Job | Batch] = Job if isinstance(claim, JobClaim) else Batch
    with db.begin() as session:
        held = session.scalar(
            update(row)
            .where(row.id == claim.id, row.lease == claim.lease)
            .values(leased_until=func.now() + lease_for)
            .returning(row.id)
        )
    if held is None:
        raise StaleLease(str(claim.id))


def _shards(job: Job) -> tuple[Shard, ...] | None:
    if job.plan is None:
        return None
    return tuple(msgspec.convert(shard, Shard) for shard in job.plan)


def _settled(job_id: UUID) -> Any:
    return (
        select(Batch.outcome)
        .where(Batch.job_id == job_id, Batch.outcome.is_not(None))
        .order_by(Batch.settle_order)
    )


def _final_lines(outcomes: Sequence[dict[str, Any]]) -> tuple[FinalLines, ...]:
    return tuple(msgspec.convert(outcome, FinalLines) for outcome in outcomes)


def final_lines(db: Database, job_id: UUID) -> tuple[FinalLines, ...]:
    """What is final of a job so far, in the order in which its batches settled."""
    with db.begin() as session:
        return _final_lines(session.scalars(_settled(job_id)).all())
