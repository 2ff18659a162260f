"""Taking rows to work on: the first of the two short transactions of every stage."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    Uuid,
    and_,
    any_,
    case,
    cast,
    column,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session, aliased

from service.rules.errors import StaleLease
from service.rules.states import BATCH_STAGES, JOB_STAGES, BatchState, JobState, Stage
from service.rules.work import BatchClaim, Claim, Ending, FinalLines, JobClaim, Shard
from service.store.engine import Database
from service.store.lanes import lane_of
from service.store.models import Account, Batch, Enqueued, Job, Lane

_BATCH_STATES = {stage: state for state, stage in BATCH_STAGES.items()}
_JOB_STATES = {stage: state for state, stage in JOB_STAGES.items()}


def is_free(row: type[Job | Batch]) -> ColumnElement[bool]:
    """Whether a row is due and no worker holds it."""
    return and_(
        row.parked_at.is_(None),
        row.not_before <= func.now(),
        or_(row.lease.is_(None), row.leased_until < func.now()),
    )


def may_be_sent(row: type[Batch]) -> ColumnElement[bool]:
    """Whether neither its account nor its lane keeps a batch from going on."""
    paused = exists().where(Account.paused_until > func.now(), _holds(row))
    held = exists().where(_HeldLane.held_until > func.now(), lane_of(row, _HeldLane))
    return and_(~paused, or_(_ends_here(row), ~row.state.in_(_UNSENT), ~held))


_UNSENT = [BatchState.QUEUED, BatchState.UPLOADED]
_HeldLane = aliased(Lane)
"""A name of its own, since a claim joins the lane for its pace."""


def _ends_here(row: type[Batch]) -> ColumnElement[bool]:
    """Whether a batch is to end although nothing may be sent."""
    return row.ending.is_not(None)


def _holds(row: type[Batch]) -> ColumnElement[bool]:
    """Whether a pause of the account holds for the row.

    What ends without Together does not wait for a refused key.
    """
    return and_(
        Account.name == row.account,
        or_(~Account.spending, row.state.in_(_UNSENT)),
        or_(
            ~_ends_here(row),
            and_(
                Account.blocked_since.is_(None),
                row.ending == Ending.CANCELLED,
                row.provider_batch_id.is_not(None),
            ),
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
        if job.lease is not None:
            # The last worker on it never said what became of it: perhaps the work killed it.
            job.tries += 1
        lease, until = uuid4(), now + lease_for
        job.lease, job.leased_until, job.dispatched_at = lease, until, None
        return JobClaim(
            id=job.id,
            lease=lease,
            leased_until=until,
            state=job.state,
            tries=job.tries,
            failures=job.failures,
            producer=job.producer,
            endpoint=job.endpoint,
            account=job.account,
            max_attempts=job.max_attempts,
            input=job.input,
            shards=_shards(job),
            enqueued=_enqueued(session, job),
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
        found = session.execute(_DUE.where(Batch.state == _BATCH_STATES[stage], _among(ids)))
        rows = [dict(row) for row in found.mappings()]
        blocked = [row for row in rows if row["account_blocked"]]
        if blocked:
            probes = 1 if _may_probe(session, blocked[0]["account"], lease_for) else 0
            rows = [row for row in rows if not row["account_blocked"]] + blocked[:probes]
        claims = [_claim(session, row, lease_for) for row in rows]
        _lease(session, claims)
        return claims


def provider_ids(db: Database, ids: Sequence[UUID]) -> frozenset[str]:
    """Return what Together calls those of the batches that are in progress there."""
    asked = select(Batch.provider_batch_id).where(
        Batch.state == BatchState.CREATED, Batch.provider_batch_id.is_not(None), _among(ids)
    )
    with db.begin() as session:
        return frozenset(name for name in session.scalars(asked) if name is not None)


_TRIES = Batch.tries + case((Batch.lease.is_not(None), 1), else_=0)
"""The last worker on it never said what became of it: perhaps the work killed it."""

# Columns, not entities: a page has up to a thousand rows, each to be read and written once. The
# names are those of the claim.
_DUE = (
    select(
        Batch.id,
        Batch.job_id,
        Batch.parent_id,
        func.now().label("now"),
        Batch.state,
        Batch.shard,
        Batch.attempt,
        _TRIES.label("tries"),
        Batch.failures,
        Batch.not_there,
        Batch.refusals,
        Batch.held,
        Batch.ending,
        Batch.unsettled_since,
        Batch.look,
        Batch.look_since,
        Batch.poison,
        Batch.endpoint,
        Batch.account,
        exists().where(Account.blocked_since.is_not(None), _holds(Batch)).label("account_blocked"),
        Batch.model,
        Job.max_attempts,
        Batch.requests,
        Batch.input_blob,
        Batch.manifest_blob,
        Batch.bytes.label("upload_bytes"),
        Job.cancel_requested_at.is_not(None).label("cancel_requested"),
        Job.cancel_requested_at.label("cancelled_at"),
        Batch.create_deadline,
        Batch.spent_file_ids,
        Batch.input_file_id,
        Batch.provider_batch_id,
        Batch.provider_status,
        Batch.provider_error,
        Batch.output_file_id,
        Batch.error_file_id,
        Batch.cancel_sent,
        Batch.submitted_at,
        Lane.seconds.label("expected"),
        func.coalesce(Lane.refusals > 0, False).label("lane_held"),
    )
    .join(Job, Job.id == Batch.job_id)
    .outerjoin(Lane, lane_of(Batch))
    .where(is_free(Batch), may_be_sent(Batch))
    .with_for_update(of=Batch, skip_locked=True)
)


def _among(ids: Sequence[UUID]) -> ColumnElement[bool]:
    """Match ids as one array, because a parameter for each would be slow."""
    return Batch.id == any_(cast(list(ids), ARRAY(Uuid)))


def _claim(session: Session, row: dict[str, Any], lease_for: timedelta) -> BatchClaim:
    sibling_errors, suspects = _sibling_errors(session, row), _suspects(session, row)
    del row["parent_id"]
    expected = row.pop("expected")
    return BatchClaim(
        **{**row, "spent_file_ids": tuple(row["spent_file_ids"])},
        lease=uuid4(),
        leased_until=row["now"] + lease_for,
        sibling_errors=sibling_errors,
        suspects=suspects,
        expected=None if expected is None else timedelta(seconds=expected),
    )


def _intends(claim: BatchClaim) -> bool:
    """Whether this claim is the first that may send the batch's create."""
    is_next = claim.state is BatchState.UPLOADED and claim.create_deadline is None
    return is_next and not claim.cancel_requested


def _lease(session: Session, claims: Sequence[BatchClaim]) -> None:
    """Write the leases and intents of one page, in one statement."""
    if not claims:
        return
    until = claims[0].leased_until
    taken = func.unnest(
        cast([claim.id for claim in claims], ARRAY(Uuid)),
        cast([claim.lease for claim in claims], ARRAY(Uuid)),
        cast([_intends(claim) for claim in claims], ARRAY(Boolean)),
    ).table_valued(column("id", Uuid), column("lease", Uuid), column("intends", Boolean))
    taken = taken.render_derived("taken")
    session.execute(
        update(Batch)
        .where(Batch.id == taken.c.id)
        .values(
            lease=taken.c.lease,
            leased_until=until,
            tries=_TRIES,
            dispatched_at=None,
            create_deadline=case((taken.c.intends, until), else_=Batch.create_deadline),
        )
        .execution_options(synchronize_session=False)
    )


def _may_probe(session: Session, account: str, lease_for: timedelta) -> bool:
    """Whether a batch of a blocked account may go through as a probe.

    One batch at a time may; the others wait for its outcome. All batches of a page belong to one
    account.
    """
    due = (
        select(Account.name)
        .where(
            Account.name == account,
            Account.blocked_since.is_not(None),
            Account.paused_until <= func.now(),
        )
        # Not waited for: whoever has the account's row may wait for one of these batches.
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    probes = (
        update(Account)
        .where(Account.name.in_(select(due.c.name)))
        .values(paused_until=func.now() + lease_for)
        .returning(Account.name)
    )
    return session.scalar(probes) is not None


def _sibling_errors(session: Session, row: dict[str, Any]) -> tuple[str, ...]:
    """The errors of the other pieces of a divided batch, or none unless all of them FAILED."""
    if row["poison"] == 0:
        return ()
    siblings = session.execute(
        select(Batch.provider_status, Batch.provider_error).where(
            Batch.job_id == row["job_id"],
            Batch.shard == row["shard"],
            Batch.parent_id == row["parent_id"],
            Batch.id != row["id"],
        )
    ).all()
    failed = all(status == "FAILED" for status, _ in siblings)
    return tuple(error or "" for _, error in siblings) if failed else ()


def _suspects(session: Session, row: dict[str, Any]) -> int:
    return suspects(session, row["job_id"], row["shard"]) if row["poison"] else 0


def suspects(session: Session, job_id: UUID, shard: int) -> int:
    """The number of batches that the search for bad lines has cost a shard."""
    return session.scalars(
        select(func.count())
        .select_from(Batch)
        .where(Batch.job_id == job_id, Batch.shard == shard, Batch.poison > 0)
    ).one()


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


def _enqueued(session: Session, job: Job) -> bytes | None:
    if job.state is not JobState.ACCEPTED or job.plan is not None:
        return None
    spec = session.scalar(select(Enqueued.spec).where(Enqueued.job_id == job.id))
    return None if spec is None else spec.encode()


def _settled(job_id: UUID) -> Any:
    return (
        select(Batch.final_lines)
        .where(Batch.job_id == job_id, Batch.final_lines.is_not(None))
        .order_by(Batch.settle_order)
    )


def _final_lines(found: Sequence[dict[str, Any]]) -> tuple[FinalLines, ...]:
    return tuple(msgspec.convert(lines, FinalLines) for lines in found)


def final_lines(db: Database, job_id: UUID) -> tuple[FinalLines, ...]:
    """Return a job's final lines so far, in the order in which its batches settled."""
    with db.begin() as session:
        return settled_lines(session, job_id)


def settled_lines(session: Session, job_id: UUID) -> tuple[FinalLines, ...]:
    """Do the same within a transaction."""
    return _final_lines(session.scalars(_settled(job_id)).all())
