"""Write what a stage decided: the second short transaction, fenced on the lease.

A worker that lost its lease changes nothing. What settles is written by `service.store.settle`.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from msgspec import to_builtins
from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.orm import Session

from service.rules.alike import alike
from service.rules.canary import Held
from service.rules.errors import StaleLease, error_text
from service.rules.measures import BATCH_SECONDS
from service.rules.outcomes import (
    Advance,
    Assembled,
    Cut,
    Fail,
    Hold,
    Outcome,
    Park,
    Pause,
    Retry,
    SetApart,
    Settle,
    Split,
    Wait,
)
from service.rules.pace import spread
from service.rules.retry import LONGEST_HOLD, MOST_FAULTS, backoff
from service.rules.states import BatchState, JobState, PartState
from service.rules.work import BatchClaim, Claim
from service.store.accounts import pause_account, probed
from service.store.complete import complete
from service.store.cutting import cut, lock_divided
from service.store.deadlines import deadline_of
from service.store.engine import Database
from service.store.health import FIRST_REST, note_create
from service.store.lanes import hold_lane, learn_pace, release_lane
from service.store.models import Batch, Enqueued, Job, Part
from service.store.moves import move_batch, move_job
from service.store.parts import canary_of, end_waiting, insert_parts, new_parts, take_out
from service.store.quotas import count_late
from service.store.settle import BATCH, change, settle
from service.store.wait import hurry_cancelled, write_waits


def apply(
    db: Database,
    claim: Claim,
    outcome: Outcome,
    *,
    retry_base: timedelta,
    probe: timedelta,
    company: timedelta = timedelta(0),
    rest: timedelta = FIRST_REST,
) -> None:
    """Commit an outcome and give the lease back. Raises StaleLease if it was lost.

    `retry_base` and `probe` are the first pauses after a transient error and a refused key;
    `company` is how long requests that go again wait for others of their job; `rest` is the first
    rest of a lane.
    """
    if isinstance(outcome, Settle) and isinstance(claim, BatchClaim):
        settle(db, claim, outcome, company=company, rest=rest)
        return
    with db.begin() as session:
        if isinstance(outcome, Wait) and isinstance(claim, BatchClaim):
            _wait(session, claim, outcome)
            return
        # Whoever changes parts and batches locks the parts first.
        apart = _lock_parts(session, claim, outcome) if isinstance(outcome, SetApart) else ()
        divided = lock_divided(session, claim, outcome) if isinstance(outcome, Cut) else None
        row = _lock(session, claim)
        if row is None or row.lease != claim.lease:
            raise StaleLease(str(claim.id))
        row.lease = row.leased_until = row.dispatched_at = None
        row.tries = 0
        _set_apart(session, apart)
        if isinstance(outcome, Cut) and isinstance(row, Batch) and divided is not None:
            cut(session, row, *divided, outcome)
        _schedule(session, row, claim, outcome, retry_base=retry_base, probe=probe)
        if isinstance(row, Batch) and isinstance(claim, BatchClaim):
            _apply_batch(session, row, claim, outcome)
            _note_create(session, row, claim, outcome, rest)
        elif isinstance(row, Job):
            _apply_job(session, row, outcome)


def _schedule(
    session: Session,
    row: Job | Batch,
    claim: Claim,
    outcome: Outcome,
    *,
    retry_base: timedelta,
    probe: timedelta,
) -> None:
    """Write when the row is due again, and why it waits."""
    match outcome:
        case Wait() | Retry():
            _postpone(row, outcome, retry_base)
        case Pause():
            _pause(session, row, claim, outcome, probe)
        case Hold() if isinstance(row, Batch):
            _hold(session, row, outcome, retry_base)
        case Park(reason=reason):
            row.last_error = error_text(reason)
            row.parked_at = func.now()
        case _:
            row.failures = row.faults = 0
            row.last_error = None
            pause = outcome.delay if isinstance(outcome, Advance) else timedelta(0)
            row.not_before = func.now() + pause


def _pause(
    session: Session, row: Job | Batch, claim: Claim, outcome: Pause, probe: timedelta
) -> None:
    probing = isinstance(claim, BatchClaim) and claim.account_blocked
    paused_until = pause_account(session, claim.account, outcome, probe, probing=probing)
    row.last_error = error_text(outcome.reason)
    if isinstance(row, Job):
        # Batches wait for their account by themselves, jobs would be due at once.
        row.not_before = paused_until
    elif outcome.spending:
        # Perhaps only this batch costs too much. So the next probe is another one, and the more
        # often others found credit in between, the more seldom this one asks.
        own = backoff(max(row.held, 1), probe, 1.0, longest=LONGEST_HOLD)
        row.not_before = paused_until + own


def _hold(session: Session, batch: Batch, outcome: Hold, retry_base: timedelta) -> None:
    batch.held += 1
    held_until = hold_lane(session, batch, outcome, retry_base)
    luck = random.random()  # noqa: S311
    own = backoff(batch.held, retry_base, luck, longest=LONGEST_HOLD)
    batch.last_error = error_text(outcome.reason)
    batch.not_before = func.greatest(held_until, func.now() + own)


def _wait(session: Session, claim: BatchClaim, outcome: Wait) -> None:
    if write_waits(session, [(claim, outcome)]):
        raise StaleLease(str(claim.id))
    if claim.account_blocked:
        probed(session, claim, outcome)


def _lock(session: Session, claim: Claim) -> Job | Batch | None:
    return session.scalar(BATCH if isinstance(claim, BatchClaim) else _JOB, {"row": claim.id})


# FOR NO KEY UPDATE: events and parts, which point to the job, need not wait for it.
_JOB = select(Job).where(Job.id == bindparam("row")).with_for_update(key_share=True)


def _lock_parts(session: Session, claim: Claim, outcome: SetApart) -> Sequence[Part]:
    return session.scalars(
        select(Part)
        .where(Part.batch_id == claim.id, Part.id.in_(outcome.parts))
        .where(Part.state == PartState.TRAVELLING)
        .order_by(Part.id)
        .with_for_update()
    ).all()


def _set_apart(session: Session, parts: Sequence[Part]) -> None:
    """Let parts leave their batch. Each goes on by itself, and meets its fault there."""
    take_out(session, parts)
    for part in parts:
        part.company = uuid4()


def _postpone(row: Job | Batch, outcome: Wait | Retry, retry_base: timedelta) -> None:
    """Make a row due again later. It keeps its state."""
    if isinstance(outcome, Wait):
        delay = spread(outcome.delay, random.random())  # noqa: S311  not for secrets
        row.failures = 0 if outcome.looked else row.failures
        row.faults = 0 if outcome.looked else row.faults
    else:
        row.failures += 1
        if outcome.fault:
            equal = row.faults > 0 and alike(row.last_error or "") == alike(
                error_text(outcome.reason)
            )
            row.faults = row.faults + 1 if equal else 1
            if row.faults >= MOST_FAULTS:
                row.parked_at = func.now()
        luck = random.random()  # noqa: S311
        named = outcome.delay
        delay = named if named is not None else backoff(row.failures, retry_base, luck)
    row.last_error = None if outcome.reason is None else error_text(outcome.reason)
    row.not_before = func.now() + delay


# --- batches -----------------------------------------------------------------------------------


def _apply_batch(session: Session, batch: Batch, claim: BatchClaim, outcome: Outcome) -> None:
    if claim.account_blocked and not isinstance(outcome, Pause):
        probed(session, claim, outcome)
    match outcome:
        case Park() | Retry() | Pause() | Hold():
            _count_failure(batch, claim, outcome)
        case Advance():
            _advance(session, batch, outcome)
            if claim.lane_held and outcome.to is BatchState.CREATED:
                release_lane(session, batch)
        case SetApart() | Cut():
            pass
        case _:
            raise TypeError(f"{outcome} is not an outcome for a batch")
    if isinstance(outcome, Retry | Advance) and batch.cancelled_at is not None:
        hurry_cancelled(session, [claim])


def _note_create(
    session: Session, batch: Batch, claim: BatchClaim, outcome: Outcome, rest: timedelta
) -> None:
    match outcome:
        case Retry(create_failed=True, reason=reason):
            note_create(session, batch, reason, rest)
        case Advance(to=BatchState.CREATED) if claim.lane_is_uneasy:
            note_create(session, batch, None, rest)


def _count_failure(batch: Batch, claim: BatchClaim, outcome: Park | Retry | Pause | Hold) -> None:
    """Count by kind, and clear the intent to create if it is this claim's and nothing was sent."""
    # A call that Together refused has done nothing.
    not_sent = isinstance(outcome, Pause | Hold)
    match outcome:
        case Retry():
            batch.not_there += outcome.not_there
            batch.refusals += outcome.refused
            not_sent = outcome.not_sent
        case Pause(spending=True) if not claim.account_blocked:
            batch.held += 1  # others had found credit
    if not_sent and claim.create_deadline is None:
        batch.create_deadline = None


def _advance(session: Session, batch: Batch, outcome: Advance) -> None:
    change(batch, outcome.changes)
    batch.not_there = batch.refusals = 0
    move_batch(session, batch, outcome.to)
    if outcome.to is BatchState.QUEUED:
        # A create that was never answered: its file must not be used again.
        batch.spent_file_ids = [*batch.spent_file_ids, batch.input_file_id]
        batch.input_file_id = None
        batch.create_deadline = None
        return
    if outcome.to is BatchState.CREATED:
        _measure("sending", batch.created_at)
        batch.create_deadline = None
        batch.submitted_at = func.now()
    if outcome.to is not BatchState.CREATED:
        # The next link of the chain is on its way; the scheduler steps in when it got lost.
        batch.dispatched_at = func.now()
    if outcome.to is BatchState.ENDED and batch.submitted_at is not None:
        _measure("together", batch.submitted_at)
    if outcome.to is BatchState.ENDED and batch.provider_status == "COMPLETED":
        learn_pace(session, batch)


def _measure(phase: str, since: datetime) -> None:
    # By this machine's clock: that is good enough for what nothing is decided by.
    BATCH_SECONDS.took(max(0.0, (datetime.now(UTC) - since).total_seconds()), phase)


# --- jobs --------------------------------------------------------------------------------------


def _apply_job(session: Session, job: Job, outcome: Outcome) -> None:
    match outcome:
        case Wait() | Retry() | Pause() | Park():
            pass
        case Split():
            _split(session, job, outcome)
        case Assembled():
            complete(session, job, outcome.segments)
        case Fail():
            if _drop_enqueued(session, job) and not outcome.read:
                # Nobody has seen whether they are its producer's to name.
                job.notify = []
            job.error = error_text(outcome.reason)
            job.problems = [to_builtins(problem) for problem in outcome.problems] or None
            job.finished_at = func.now()
            if outcome.rejected:
                # It must not hold the key that its mended successor will come with.
                job.idempotency_key = job.fingerprint = None
            move_job(session, job, JobState.REJECTED if outcome.rejected else JobState.FAILED)
        case _:
            raise TypeError(f"{outcome} is not an outcome for a job")


def _drop_enqueued(session: Session, job: Job) -> bool:
    """Delete an enqueued spec, once it has been read. Return whether there was one."""
    of_job = delete(Enqueued).where(Enqueued.job_id == job.id).returning(Enqueued.job_id)
    return session.scalar(of_job) is not None


def _split(session: Session, job: Job, outcome: Split) -> None:
    shards = outcome.shards
    if outcome.spec is not None:
        job.answer_check = outcome.spec.check
        job.max_cost = outcome.spec.max_cost
        for name, value in deadline_of(outcome.spec, job.created_at).items():
            setattr(job, name, value)
        for name, value in canary_of(outcome.spec, shards).items():
            setattr(job, name, value)
    elif any(shard.held for shard in shards):
        job.held = Held.CANARY
    total = sum(shard.requests for shard in shards)
    # Before the job's row is written: who submits with its key at this moment has locked the
    # producer's row, and waits for what is written, but not for what is only locked.
    with session.no_autoflush:
        count_late(session, job.producer, total)
    job.total = job.pending = total
    job.open_parts = len(shards)
    job.started_at = func.now()
    move_job(session, job, JobState.RUNNING, parts=len(shards), requests=job.total)
    _drop_enqueued(session, job)
    session.flush()
    now = session.scalars(select(func.now())).one()
    row = {name: getattr(job, name) for name in _OF_A_JOB}
    insert_parts(session, new_parts(row, shards, now))
    if job.cancel_requested_at is not None:
        end_waiting(session, [job.id])


_OF_A_JOB = ("id", "account", "endpoint", "producer", "priority")
