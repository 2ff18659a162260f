"""Write what a stage decided: the second short transaction, and the only writer of moves.

Every write is fenced on the lease; a worker that lost it changes nothing.
"""

import random
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from msgspec import to_builtins
from psycopg import Connection, sql
from sqlalchemy import ARRAY, BigInteger, any_, cast, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.errors import StaleLease, error_text
from service.rules.pace import spread
from service.rules.retry import LONGEST_HOLD, MOST_FAULTS, MOST_SUSPECTS, alike, backoff
from service.rules.states import BatchState, JobState, check_move
from service.rules.work import (
    Advance,
    Assembled,
    BatchClaim,
    Changes,
    Claim,
    Ending,
    Fail,
    Hold,
    JobClaim,
    Outcome,
    Park,
    Pause,
    Retry,
    RetryBatch,
    Settle,
    Shard,
    Split,
    Wait,
)
from service.store.accounts import pause_account, probed
from service.store.claim import suspects
from service.store.engine import Database
from service.store.lanes import hold_lane, learn_pace, learn_tokens, release_lane
from service.store.models import SCHEMA, Base, Batch, DeadLetter, Enqueued, Event, Job, Segment
from service.store.notices import announce, announce_progress
from service.store.quotas import count_late
from service.store.successor import successor
from service.store.usage import count_usage
from service.store.wait import hurry_cancelled, write_waits


def apply(
    db: Database, claim: Claim, outcome: Outcome, *, retry_base: timedelta, probe: timedelta
) -> None:
    """Commit an outcome and give the lease back. Raises StaleLease if it was lost.

    `retry_base` and `probe` are the first pauses after a transient error and a refused key.
    """
    with db.begin() as session:
        if isinstance(outcome, Wait) and isinstance(claim, BatchClaim):
            _wait(session, claim, outcome)
            return
        # Whatever changes a job and its batches together locks the job first.
        settles = isinstance(claim, JobClaim) or isinstance(outcome, Settle)
        job = _lock_job(session, claim) if settles else None
        row = job if isinstance(claim, JobClaim) else _lock_batch(session, claim)
        if row is None or row.lease != claim.lease:
            raise StaleLease(str(claim.id))
        row.lease = row.leased_until = row.dispatched_at = None
        row.tries = 0
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
        if isinstance(row, Batch) and isinstance(claim, BatchClaim):
            _apply_batch(session, job, row, claim, outcome)
        elif isinstance(row, Job):
            _apply_job(session, row, outcome)


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


def _lock_job(session: Session, claim: Claim) -> Job | None:
    job_id = claim.id if isinstance(claim, JobClaim) else claim.job_id
    # FOR NO KEY UPDATE: events of other batches, which point to the job, need not wait for it.
    return session.scalar(select(Job).where(Job.id == job_id).with_for_update(key_share=True))


def _lock_batch(session: Session, claim: BatchClaim) -> Batch | None:
    return session.scalar(select(Batch).where(Batch.id == claim.id).with_for_update())


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


def _apply_batch(
    session: Session, job: Job | None, batch: Batch, claim: BatchClaim, outcome: Outcome
) -> None:
    if claim.account_blocked and not isinstance(outcome, Pause):
        probed(session, claim, outcome)
    if batch.state is BatchState.QUEUED and isinstance(outcome, Retry):
        # Nothing of it is over there: what cannot go must not keep others from going.
        batch.admitted_at = None
    match outcome:
        case Park() | Retry() | Pause() | Hold():
            _count_failure(batch, claim, outcome)
        case Advance():
            _advance(session, batch, outcome)
            if claim.lane_held and outcome.to is BatchState.CREATED:
                release_lane(session, batch)
        case Settle() if job is not None and _search_outgrew(session, batch, claim, outcome):
            pass  # it is due again at once, and its next claim knows the true number
        case Settle() if job is not None:
            _settle(session, job, batch, outcome)
        case _:
            raise TypeError(f"{outcome} is not an outcome for a batch")
    if isinstance(outcome, Retry | Advance):
        hurry_cancelled(session, [claim])


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


def _search_outgrew(session: Session, batch: Batch, claim: BatchClaim, outcome: Settle) -> bool:
    """Whether batches that were divided meanwhile have used up this division's share.

    The job is locked, so no other division is counted at the same time.
    """
    pieces = sum(retry.poison > batch.poison for retry in outcome.settlement.retries)
    if not pieces:
        return False
    made = suspects(session, batch.job_id, batch.shard)
    return made > claim.suspects and made + pieces > MOST_SUSPECTS


def _change(batch: Batch, changes: Changes) -> None:
    for name, value in vars(changes).items():
        if value is not None:
            setattr(batch, name, value)


def _advance(session: Session, batch: Batch, outcome: Advance) -> None:
    _change(batch, outcome.changes)
    batch.not_there = batch.refusals = 0
    _move(session, batch, outcome.to)
    if outcome.to is BatchState.QUEUED:
        # A create that was never answered: its file must not be used again.
        batch.spent_file_ids = [*batch.spent_file_ids, batch.input_file_id]
        batch.input_file_id = None
        batch.create_deadline = None
        return
    if outcome.to is BatchState.CREATED:
        batch.create_deadline = None
        batch.submitted_at = func.now()
    if outcome.to is not BatchState.CREATED:
        # The next link of the chain is on its way; the scheduler steps in when it got lost.
        batch.dispatched_at = func.now()
    if outcome.to is BatchState.ENDED and batch.provider_status == "COMPLETED":
        learn_pace(session, batch)


def _settle(session: Session, job: Job, batch: Batch, outcome: Settle) -> None:
    settlement = outcome.settlement
    _change(batch, outcome.changes)
    job.settled_batches += 1
    batch.succeeded = settlement.succeeded
    batch.dead = len(settlement.dead)
    batch.carried = settlement.carried
    batch.final_lines = to_builtins(settlement.final_lines)
    batch.prompt_tokens = settlement.usage.prompt_tokens
    batch.completion_tokens = settlement.usage.completion_tokens
    batch.total_tokens = settlement.usage.total_tokens
    batch.settle_order = job.settled_batches
    batch.oddities = to_builtins(settlement.oddities)
    batch.create_deadline = None
    if outcome.given_up and batch.input_file_id is not None:
        # Together may still run it, or be about to.
        batch.spent_file_ids = [*batch.spent_file_ids, batch.input_file_id]
    batch.finished_at = func.now()
    if outcome.reason is not None:
        batch.last_error = error_text(outcome.reason)
    _move(session, batch, outcome.to, succeeded=batch.succeeded, dead=batch.dead)
    for retry in settlement.retries:
        _add_retry(session, job, batch, retry)
    _store_dead_letters(session, batch, outcome)
    done_before = job.succeeded + job.failed
    job.succeeded += settlement.succeeded
    job.failed += len(settlement.dead)
    job.pending -= settlement.succeeded + len(settlement.dead)
    job.open_batches += len(settlement.retries) - 1
    job.prompt_tokens += settlement.usage.prompt_tokens
    job.completion_tokens += settlement.usage.completion_tokens
    job.total_tokens += settlement.usage.total_tokens
    if job.open_batches == 0:
        job.not_before = func.now()
    announce_progress(session, job, done_before)
    learn_tokens(session, batch, settlement.usage)
    # Last: the row is shared with other jobs, and locked until the commit.
    count_usage(session, job.producer, batch)


def _add_retry(session: Session, job: Job, parent: Batch, retry: RetryBatch) -> None:
    # A cancel that came while the parent was fetched has not seen this batch: it ends at once.
    cancelled = job.cancel_requested_at is not None
    delay = timedelta(0) if cancelled else retry.delay
    batch = successor(
        job,
        parent,
        manifest_blob=retry.manifest_blob,
        requests=retry.requests,
        size=retry.bytes,
        poison=retry.poison,
    )
    batch.not_before = batch.ready_at = func.now() + delay
    batch.admitted_at = job.cancel_requested_at
    batch.ending = Ending.CANCELLED if cancelled else None
    session.add(batch)
    job.attempts = max(job.attempts, batch.attempt)
    session.add(
        Event(
            job_id=job.id,
            batch_id=batch.id,
            target=BatchState.QUEUED,
            detail={"parent": str(parent.id), "requests": retry.requests},
        )
    )


def _store_dead_letters(session: Session, batch: Batch, outcome: Settle) -> None:
    """Store dead letters, of which there may be tens of thousands."""
    letters = outcome.settlement.dead
    if not letters:
        return
    session.execute(
        # One that was dead before and was retried: its newest end counts.
        delete(DeadLetter).where(
            DeadLetter.job_id == batch.job_id,
            # As one array: a parameter for each would be slow, and 65,535 are the most.
            DeadLetter.ordinal == any_(cast([dl.ordinal for dl in letters], ARRAY(BigInteger))),
        )
    )
    _copy_rows(
        session,
        DeadLetter,
        ("job_id", "ordinal", "custom_id", "code", "message", "attempts", "batch_id"),
        (
            (batch.job_id, dl.ordinal, dl.custom_id, dl.code, dl.message, dl.attempts, batch.id)
            for dl in letters
        ),
    )


# --- jobs --------------------------------------------------------------------------------------


def _apply_job(session: Session, job: Job, outcome: Outcome) -> None:
    match outcome:
        case Wait() | Retry() | Pause() | Park():
            pass
        case Split(shards=shards):
            _split(session, job, shards)
        case Assembled():
            _assemble(session, job, outcome)
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
            _move(session, job, JobState.REJECTED if outcome.rejected else JobState.FAILED)
        case _:
            raise TypeError(f"{outcome} is not an outcome for a job")


def _drop_enqueued(session: Session, job: Job) -> bool:
    """Delete an enqueued spec, once it has been read. Return whether there was one."""
    of_job = delete(Enqueued).where(Enqueued.job_id == job.id).returning(Enqueued.job_id)
    return session.scalar(of_job) is not None


def _split(session: Session, job: Job, shards: tuple[Shard, ...]) -> None:
    total = sum(shard.requests for shard in shards)
    was_read = job.plan is None
    if was_read:
        # Before the job's row is written: who submits with its key at this moment has locked the
        # producer's row, and waits for what is written, but not for what is only locked.
        with session.no_autoflush:
            count_late(session, job.producer, total)
    job.total = job.pending = total
    job.open_batches = len(shards)
    job.attempts = 1
    job.plan = None
    job.started_at = func.now()
    _move(session, job, JobState.RUNNING, shards=len(shards), requests=job.total)
    rows: list[dict[str, Any]] = [
        {
            "id": uuid4(),
            "job_id": job.id,
            "state": BatchState.QUEUED,
            "shard": number,
            "account": job.account,
            "endpoint": job.endpoint,
            "producer": job.producer,
            "priority": job.priority,
            # A cancelled job's batches have nothing to wait for: they are to end.
            "admitted_at": job.cancel_requested_at,
            "ending": None if job.cancel_requested_at is None else Ending.CANCELLED,
            "model": shard.model,
            "input_blob": shard.input_blob,
            "manifest_blob": shard.manifest_blob,
            "bytes": shard.bytes,
            "requests": shard.requests,
        }
        for number, shard in enumerate(shards)
    ]
    if not rows:
        return  # a cancelled job whose requests nobody could read
    session.execute(insert(Batch), rows)
    # A batch's log begins when it does.
    queued = {"job_id": job.id, "target": BatchState.QUEUED}
    details = [{"shard": row["shard"], "requests": row["requests"]} for row in rows]
    session.execute(
        insert(Event),
        [
            {**queued, "batch_id": row["id"], "detail": detail}
            for row, detail in zip(rows, details, strict=True)
        ],
    )
    if was_read:
        _drop_enqueued(session, job)


def _assemble(session: Session, job: Job, outcome: Assembled) -> None:
    job.generation += 1
    session.add_all(
        Segment(
            job_id=job.id,
            generation=job.generation,
            position=position,
            blob=segment.blob,
            index_blob=segment.index_blob,
            bytes=segment.bytes,
            requests=segment.requests,
        )
        for position, segment in enumerate(outcome.segments)
    )
    job.finished_at = func.now()
    cancelled = job.cancel_requested_at is not None
    _move(
        session,
        job,
        JobState.CANCELLED if cancelled else JobState.COMPLETED,
        succeeded=job.succeeded,
        failed=job.failed,
        generation=job.generation,
    )


def _move(session: Session, row: Job | Batch, to: JobState | BatchState, **detail: Any) -> None:
    """Check a move against the table, make it, and append it to the event log."""
    check_move(row.state, to)
    session.add(
        Event(
            job_id=row.id if isinstance(row, Job) else row.job_id,
            batch_id=row.id if isinstance(row, Batch) else None,
            source=row.state,
            target=to,
            detail=detail,
        )
    )
    if (isinstance(row, Job) and isinstance(to, JobState)) or (
        isinstance(row, Batch) and isinstance(to, BatchState)
    ):
        row.state = to
    if isinstance(row, Job):
        announce(session, row)


def _copy_rows(
    session: Session, table: type[Base], columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """COPY many rows into a table, within the session's transaction."""
    session.flush()
    connection = session.connection().connection.driver_connection
    if not isinstance(connection, Connection):
        raise TypeError(f"COPY needs psycopg, not {type(connection)}")
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(SCHEMA, table.__tablename__),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
    )
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)
