"""Taking rows to work on: the first of the two short transactions of every stage."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    DateTime,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    column,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session, aliased

from service.rules.errors import StaleLease
from service.rules.states import BATCH_STAGES, JOB_STAGES, BatchState, JobState, LaneState, Stage
from service.rules.work import BatchClaim, Claim, Ending, FinalLines, JobClaim
from service.store.complete import settled_lines
from service.store.engine import Database
from service.store.lanes import lane_of
from service.store.models import Account, Batch, Enqueued, Job, Lane, Part

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
    held = exists().where(
        or_(_HeldLane.held_until > func.now(), _HeldLane.paused_at.is_not(None)),
        lane_of(row, _HeldLane),
    )
    stopped = exists().where(
        _StoppedAccount.name == row.account, _StoppedAccount.paused_at.is_not(None)
    )
    is_sent = ~row.state.in_(_UNSENT)
    return and_(~paused, or_(_ends_here(row), is_sent, and_(~held, ~stopped)))


_StoppedAccount = aliased(Account)
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


def claim_jobs(
    db: Database, ids: Sequence[UUID], stage: Stage, lease_for: timedelta
) -> list[JobClaim]:
    """Lease those of the jobs that are due for the stage and free."""
    with db.begin() as session:
        rows = session.execute(_DUE_JOBS[stage], {"ids": list(ids)}).all()
        lines = settled_lines(session, [job.id for job, _ in rows])
        return [_job_claim(session, job, now + lease_for, lines[job.id]) for job, now in rows]


_DUE_JOBS = {
    stage: select(Job, func.now())
    .where(Job.id == any_(bindparam("ids", type_=ARRAY(Uuid))))
    .where(Job.state == state, is_free(Job), Job.open_parts == 0)
    .with_for_update(skip_locked=True, key_share=True)
    for stage, state in _JOB_STATES.items()
}


def _job_claim(
    session: Session, job: Job, until: datetime, lines: Sequence[FinalLines]
) -> JobClaim:
    if job.lease is not None:
        # The last worker on it never said what became of it: perhaps the work killed it.
        job.tries += 1
    lease = uuid4()
    job.lease, job.leased_until, job.dispatched_at = lease, until, None
    return JobClaim(
        id=job.id,
        lease=lease,
        leased_until=until,
        state=job.state,
        created_at=job.created_at,
        tries=job.tries,
        failures=job.failures,
        producer=job.producer,
        endpoint=job.endpoint,
        account=job.account,
        max_attempts=job.max_attempts,
        input=job.input,
        canary=job.canary,
        max_cost=job.max_cost,
        enqueued=_enqueued(session, job),
        cancel_requested=job.cancel_requested_at is not None,
        final_lines=tuple(lines),
    )


def claim_batches(
    db: Database, ids: Sequence[UUID], stage: Stage, lease_for: timedelta
) -> list[BatchClaim]:
    """Lease those of the batches that are due for the stage and free.

    For `create` this commits the intent: from here on Together may hold the batch.
    """
    with db.begin() as session:
        found = session.execute(_DUE_FOR[stage], {"ids": list(ids)})
        rows = [dict(row) for row in found.mappings()]
        blocked = [row for row in rows if row["account_blocked"]]
        if blocked:
            probes = 1 if _may_probe(session, blocked[0]["account"], lease_for) else 0
            rows = [row for row in rows if not row["account_blocked"]] + blocked[:probes]
        claims = [_claim(session, row, lease_for) for row in rows]
        _lease(session, claims, seals=stage is Stage.UPLOAD)
        return claims


def provider_ids(db: Database, ids: Sequence[UUID]) -> frozenset[str]:
    """Return what Together calls those of the batches that are in progress there."""
    with db.begin() as session:
        found = session.scalars(_PROVIDER_IDS, {"ids": list(ids)})
        return frozenset(name for name in found if name is not None)


_TRIES = Batch.tries + case((Batch.lease.is_not(None), 1), else_=0)
"""The last worker on it never said what became of it: perhaps the work killed it."""

# Columns, not entities: a page has up to a thousand rows, each to be read and written once. The
# names are those of the claim.
_DUE = (
    select(
        Batch.id,
        func.now().label("now"),
        Batch.state,
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
        Batch.failed_first,
        Batch.endpoint,
        Batch.account,
        exists().where(Account.blocked_since.is_not(None), _holds(Batch)).label("account_blocked"),
        select(Account.blocked_since)
        .where(Account.name == Batch.account, ~Account.spending)
        .scalar_subquery()
        .label("key_refused_since"),
        Batch.model,
        Batch.parts,
        Batch.renamed,
        Batch.requests,
        Batch.cancelled_at.is_not(None).label("cancel_requested"),
        Batch.cancelled_at,
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
        func.coalesce(Lane.state, LaneState.HEALTHY).label("lane_state"),
        func.coalesce(
            or_(
                Lane.state != LaneState.HEALTHY,
                func.jsonb_array_length(Lane.health["failures"]) > 0,
            ),
            False,
        ).label("lane_is_uneasy"),
        Batch.probe,
    )
    .outerjoin(Lane, lane_of(Batch))
    .where(is_free(Batch), may_be_sent(Batch))
    .with_for_update(of=Batch, skip_locked=True)
)
# The ids as one array: a parameter for each would be slow.
_AMONG = Batch.id == any_(bindparam("ids", type_=ARRAY(Uuid)))
_DUE_FOR = {
    stage: _DUE.where(Batch.state == state, _AMONG) for stage, state in _BATCH_STATES.items()
}
_PROVIDER_IDS = select(Batch.provider_batch_id).where(
    Batch.state == BatchState.CREATED, Batch.provider_batch_id.is_not(None), _AMONG
)

_taken = (
    func.unnest(
        bindparam("ids", type_=ARRAY(Uuid)),
        bindparam("leases", type_=ARRAY(Uuid)),
        bindparam("intents", type_=ARRAY(Boolean)),
    )
    .table_valued(column("id", Uuid), column("lease", Uuid), column("intends", Boolean))
    .render_derived("taken")
)
_until = bindparam("until", type_=DateTime(timezone=True))
_LEASE = (
    update(Batch)
    .where(Batch.id == _taken.c.id)
    .values(
        lease=_taken.c.lease,
        leased_until=_until,
        tries=_TRIES,
        dispatched_at=None,
        sealed=or_(Batch.sealed, bindparam("seals", type_=Boolean)),
        create_deadline=case((_taken.c.intends, _until), else_=Batch.create_deadline),
    )
    .execution_options(synchronize_session=False)
)


def _claim(session: Session, row: dict[str, Any], lease_for: timedelta) -> BatchClaim:
    expected = row.pop("expected")
    divided = row["poison"] > 0
    return BatchClaim(
        **{**row, "spent_file_ids": tuple(row["spent_file_ids"])},
        lease=uuid4(),
        leased_until=row["now"] + lease_for,
        sibling_errors=_sibling_errors(session, row["id"]) if divided else (),
        suspects=suspects(session, row["failed_first"]) if divided else 0,
        expected=None if expected is None else timedelta(seconds=expected),
    )


def _intends(claim: BatchClaim) -> bool:
    """Whether this claim is the first that may send the batch's create."""
    is_next = claim.state is BatchState.UPLOADED and claim.create_deadline is None
    return is_next and not claim.cancel_requested


def _lease(session: Session, claims: Sequence[BatchClaim], *, seals: bool) -> None:
    """Write the leases and intents of one page, in one statement; an upload seals its batch."""
    if not claims:
        return
    session.execute(
        _LEASE,
        {
            "ids": [claim.id for claim in claims],
            "leases": [claim.lease for claim in claims],
            "intents": [_intends(claim) for claim in claims],
            "until": claims[0].leased_until,
            "seals": seals,
        },
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


def _sibling_errors(session: Session, batch_id: UUID) -> tuple[str, ...]:
    """The errors of the other pieces of a divided batch, or none unless all of them FAILED."""
    mine, parent, fellow, piece = aliased(Part), aliased(Part), aliased(Part), aliased(Part)
    siblings = session.execute(
        select(piece.company, Batch.provider_status, Batch.provider_error)
        .distinct()
        .select_from(mine)
        .join(parent, parent.id == mine.parent_id)
        .join(fellow, fellow.batch_id == parent.batch_id)
        .join(piece, piece.parent_id == fellow.id)
        .outerjoin(Batch, Batch.id == piece.company)
        .where(mine.batch_id == batch_id, piece.company.is_not(None), piece.company != batch_id)
    ).all()
    failed = all(status == "FAILED" for _, status, _ in siblings)
    return tuple(error or "" for *_, error in siblings) if failed else ()


def suspects(session: Session, failed_first: UUID | None) -> int:
    """The number of batches that the search for the bad lines of a FAILED one has cost."""
    return session.scalars(
        select(func.count(Part.company.distinct())).where(Part.failed_first == failed_first)
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


def _enqueued(session: Session, job: Job) -> bytes | None:
    if job.state is not JobState.ACCEPTED:
        return None
    spec = session.scalar(select(Enqueued.spec).where(Enqueued.job_id == job.id))
    return None if spec is None else spec.encode()


def final_lines(db: Database, job_id: UUID) -> tuple[FinalLines, ...]:
    """Return a job's final lines so far, in the order in which its parts settled."""
    with db.begin() as session:
        return tuple(settled_lines(session, [job_id])[job_id])
