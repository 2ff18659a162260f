"""Settle the parts of a batch, a slice in each transaction. The last one moves the batch.

Every slice is fenced on the batch's lease. What an earlier try has stored is left alone, so that
settling can be done again from the start.
"""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from msgspec import to_builtins
from psycopg import Connection, sql
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Select,
    Uuid,
    and_,
    any_,
    bindparam,
    cast,
    column,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session, aliased

from service.rules.canary import HELD_UNTIL
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import StaleLease, error_text
from service.rules.measures import ODDITIES
from service.rules.outcomes import Changes, RetryPart, Settle, Settlement, Usage
from service.rules.retry import MOST_SUSPECTS
from service.rules.states import PartState, check_move
from service.rules.work import BatchClaim
from service.store.accounts import probed
from service.store.claim import suspects
from service.store.complete import end_jobs
from service.store.engine import Database, is_unavailable
from service.store.health import FIRST_REST, note_end
from service.store.hold import judge_canary
from service.store.lanes import learn_tokens
from service.store.models import SCHEMA, Base, Batch, DeadLetter, Event, Job, Part
from service.store.moves import move_batch
from service.store.notices import announce_progress
from service.store.parts import end_waiting, successor
from service.store.usage import count_usage
from service.store.wait import write_waits

SLICE = 200
"""The most parts that one transaction settles: it locks their jobs."""


def settle(
    db: Database,
    claim: BatchClaim,
    outcome: Settle,
    *,
    company: timedelta,
    rest: timedelta = FIRST_REST,
) -> None:
    """Commit a Settle and give the lease back. Raises StaleLease if it was lost.

    `company` is how long requests that go again wait for others of their job, `rest` the first rest
    of a lane. A part that cannot be stored keeps no other from it; then its error is raised, and
    the batch stays open with it.
    """
    divides = any(retry.company for part in outcome.parts for retry in part.retries)
    # All that belongs together must be there before it is let in.
    size = len(outcome.parts) if divides else SLICE
    pages = [outcome.parts[at : at + size] for at in range(0, len(outcome.parts), size or 1)]
    trouble: Exception | None = None
    for page in pages[:-1]:
        trouble = _slice(db, claim, page, outcome, company) or trouble
        reached(CrashPoint.SETTLE_SLICED)
    last = pages[-1] if pages else ()
    if trouble is None:
        try:
            _store(db, claim, last, outcome, company, rest=rest, is_last=True)
        except Exception as error:
            if len(outcome.parts) < 2 or isinstance(error, StaleLease) or is_unavailable(error):
                raise
            trouble = error
    if trouble is not None:
        _slice(db, claim, last, outcome, company)
        raise trouble


def _slice(
    db: Database,
    claim: BatchClaim,
    page: Sequence[Settlement],
    outcome: Settle,
    company: timedelta,
) -> Exception | None:
    """Store parts together, or else one by one. Return the error of one that cannot be stored."""
    try:
        _store(db, claim, page, outcome, company)
    except Exception as error:
        if isinstance(error, StaleLease) or is_unavailable(error):
            raise
        if len(page) < 2:
            return error
        found: Exception | None = None
        for part in page:
            found = _slice(db, claim, [part], outcome, company) or found
        return found
    return None


def _store(
    db: Database,
    claim: BatchClaim,
    page: Sequence[Settlement],
    outcome: Settle,
    company: timedelta,
    *,
    rest: timedelta = FIRST_REST,
    is_last: bool = False,
) -> None:
    with db.begin() as session:
        # In this order for everybody: jobs, parts, batches.
        jobs = _locked(session, Job, {part.job_id for part in page})
        parts = _locked(session, Part, {part.part for part in page})
        batch = session.scalar(BATCH, {"row": claim.id})
        if batch is None or batch.lease != claim.lease:
            raise StaleLease(str(claim.id))
        if _search_outgrew(session, claim, outcome):
            # It is due again at once, and its next claim knows the true number.
            batch.lease = batch.leased_until = batch.dispatched_at = None
            batch.not_before = func.now()
            return
        open_parts = [
            (jobs[part.job_id], parts[part.part], part)
            for part in page
            if part.part in parts and parts[part.part].state is PartState.TRAVELLING
        ]
        _settle_parts(session, batch, open_parts, company)
        closes = is_last and outcome.rest is None
        if closes:
            _close(session, batch, outcome)
            note_end(session, batch, outcome.signs, rest)
        elif is_last and outcome.rest is not None:
            session.flush()
            if write_waits(session, [(claim, outcome.rest)]):
                raise StaleLease(str(claim.id))
        if is_last and claim.account_blocked:
            probed(session, claim, outcome.rest or outcome)
        end_jobs(session, {job.id: job for job, *_ in open_parts}.values())
        # Last: the row is shared with other jobs, and locked until the commit.
        count_usage(session, batch, [settlement for *_, settlement in open_parts], closes=closes)


def _locked(session: Session, table: Any, ids: set[UUID]) -> dict[UUID, Any]:
    return {row.id: row for row in session.scalars(_LOCKED[table], {"ids": sorted(ids)})}


def _in_order(table: type[Job] | type[Part]) -> Select[Any]:
    among = table.id == any_(bindparam("ids", type_=ARRAY(Uuid)))
    # FOR NO KEY UPDATE: events and parts, which point to a job, need not wait for it.
    return select(table).where(among).order_by(table.id).with_for_update(key_share=True)


_LOCKED = {Job: _in_order(Job), Part: _in_order(Part)}
BATCH = select(Batch).where(Batch.id == bindparam("row")).with_for_update()
"""The row of a claim, whose id is the parameter `row`, until the transaction ends."""


def _search_outgrew(session: Session, claim: BatchClaim, outcome: Settle) -> bool:
    """Whether batches that were divided meanwhile have used up this division's share."""
    made = {
        retry.company
        for part in outcome.parts
        for retry in part.retries
        if retry.poison > claim.poison
    }
    if not made:
        return False
    first = claim.failed_first or claim.id
    # So that no other division is counted at the same time.
    session.execute(select(Batch.id).where(Batch.id == first).with_for_update())
    known = suspects(session, first)
    return known > claim.suspects and known + len(made) > MOST_SUSPECTS


def _settle_parts(
    session: Session,
    batch: Batch,
    settled: Sequence[tuple[Job, Part, Settlement]],
    company: timedelta,
) -> None:
    done_before = {job.id: job.succeeded + job.failed for job, _, _ in settled}
    for job, part, settlement in settled:
        _settle_part(job, part, settlement)
        if batch.input_file_id is not None:
            part.renamed = batch.renamed
        for retry in settlement.retries:
            again = _retried(part, batch, retry, company)
            job.attempts = max(job.attempts, again.attempt)
            session.add(again)
            detail = {
                "parent": str(part.id),
                "requests": retry.requests,
                "attempt": again.attempt,
            }
            session.add(Event(job_id=job.id, target="retried", detail=detail))
        for table in (batch, job):
            table.prompt_tokens += settlement.usage.prompt_tokens
            table.completion_tokens += settlement.usage.completion_tokens
            table.total_tokens += settlement.usage.total_tokens
        batch.succeeded += settlement.succeeded
        batch.dead += len(settlement.dead)
        batch.carried += settlement.carried
    _store_dead_letters(session, [(part, settlement) for _, part, settlement in settled])
    jobs = {job.id: job for job, _, _ in settled}
    cancelled = [job.id for job in jobs.values() if job.cancel_requested_at is not None]
    if cancelled and any(settlement.retries for _, _, settlement in settled):
        # A cancel that came while the batch was fetched has not seen these parts.
        end_waiting(session, cancelled)
    for job in jobs.values():
        announce_progress(session, job, done_before[job.id])
        judge_canary(session, job)
    _end_patience(session, [job.id for job in jobs.values() if job.open_parts and job.attempts > 1])


def _end_patience(session: Session, job_ids: Sequence[UUID]) -> None:
    """Let what goes again go, where nothing else of its job is open in its lane."""
    if not job_ids:
        return
    session.flush()
    other = aliased(Part)
    company = select(other.id).where(
        other.job_id == Part.job_id,
        other.model == Part.model,
        or_(
            other.state == PartState.TRAVELLING,
            and_(
                other.state == PartState.WAITING,
                other.patient_until.is_(None),
                other.ready_at < HELD_UNTIL,
            ),
        ),
    )
    session.execute(
        update(Part)
        .where(Part.job_id == any_(cast(list(job_ids), ARRAY(Uuid))))
        .where(Part.state == PartState.WAITING, Part.patient_until > Part.ready_at)
        .where(~company.exists())
        .values(patient_until=Part.ready_at)
        .execution_options(synchronize_session=False)
    )


def _settle_part(job: Job, part: Part, settlement: Settlement) -> None:
    check_move(part.state, PartState.SETTLED)
    job.settled_parts += 1
    job.attempts = max(job.attempts, part.attempt)
    part.state = PartState.SETTLED
    part.succeeded = settlement.succeeded
    part.dead = len(settlement.dead)
    part.carried = settlement.carried
    part.final_lines = to_builtins(settlement.final_lines)
    part.prompt_tokens = settlement.usage.prompt_tokens
    part.completion_tokens = settlement.usage.completion_tokens
    part.total_tokens = settlement.usage.total_tokens
    part.settle_order = job.settled_parts
    part.finished_at = func.now()
    job.succeeded += settlement.succeeded
    job.failed += len(settlement.dead)
    job.pending -= settlement.succeeded + len(settlement.dead)
    job.open_parts += len(settlement.retries) - 1


def _retried(parent: Part, batch: Batch, retry: RetryPart, company: timedelta) -> Part:
    part = successor(parent, retry.manifest, retry.requests, retry.bytes)
    part.ready_at = func.now() + retry.delay
    part.poison, part.company = retry.poison, retry.company
    if retry.outage:
        part.outage_since = parent.outage_since or func.now()
    if retry.company is not None:
        part.failed_first = batch.failed_first or batch.id
    else:
        part.patient_until = func.now() + retry.delay + company
    return part


def _close(session: Session, batch: Batch, outcome: Settle) -> None:
    """Move a batch whose parts are settled."""
    change(batch, outcome.changes)
    batch.lease = batch.leased_until = batch.dispatched_at = None
    batch.tries = batch.failures = batch.faults = 0
    batch.last_error = None if outcome.reason is None else error_text(outcome.reason)
    batch.oddities = to_builtins(outcome.oddities)
    for kind in ODDITIES.labels["kind"]:
        if found := getattr(outcome.oddities, kind):
            ODDITIES.count(kind, more=found)
    batch.create_deadline = None
    if outcome.given_up and batch.input_file_id is not None:
        # Together may still run it, or be about to.
        batch.spent_file_ids = [*batch.spent_file_ids, batch.input_file_id]
    batch.finished_at = func.now()
    move_batch(session, batch, outcome.to, succeeded=batch.succeeded, dead=batch.dead)
    usage = Usage(batch.prompt_tokens, batch.completion_tokens, batch.total_tokens)
    learn_tokens(session, batch, usage)


def change(batch: Batch, changes: Changes) -> None:
    """Write what was learned of the provider's side."""
    for name, value in vars(changes).items():
        if value is not None:
            setattr(batch, name, value)


def _store_dead_letters(session: Session, settled: Sequence[tuple[Part, Settlement]]) -> None:
    """Store dead letters, of which there may be tens of thousands."""
    letters = [(part, letter) for part, settlement in settled for letter in settlement.dead]
    if not letters:
        return
    # One that was dead before and was retried: its newest end counts. As arrays: a parameter for
    # each would be slow, and 65,535 are the most.
    again = func.unnest(
        cast([part.job_id for part, _ in letters], ARRAY(Uuid)),
        cast([letter.ordinal for _, letter in letters], ARRAY(BigInteger)),
    ).table_valued(column("job_id", Uuid), column("ordinal", BigInteger))
    again = again.render_derived("again")
    session.execute(
        delete(DeadLetter).where(
            DeadLetter.job_id == again.c.job_id, DeadLetter.ordinal == again.c.ordinal
        )
    )
    _copy_rows(
        session,
        DeadLetter,
        (
            *("job_id", "ordinal", "custom_id", "code", "message", "attempts"),
            *("part_id", "producer", "cause"),
        ),
        (
            (
                *(part.job_id, dl.ordinal, dl.custom_id, dl.code, dl.message, dl.attempts),
                *(part.id, part.producer, dl.cause),
            )
            for part, dl in letters
        ),
    )


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
