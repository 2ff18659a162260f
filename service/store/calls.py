"""Calls: who waits for their answers, and what became of them.

A call is a job of one request (`jobs.is_call`) with a row in `calls`. That row says which
connection takes the answer. Nothing about the request itself depends on it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ARRAY, Text, Uuid, any_, bindparam, cast, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.states import JobState
from service.store.engine import Database
from service.store.models import Attendant, Call, table_of

BEAT = timedelta(seconds=5)
"""How often a process that holds calls says that it lives."""
UNSEEN = 4 * BEAT
"""A process that was not seen for so long holds no calls any more."""
LOST_TAIL = timedelta(minutes=10)
"""How long after its answer was sent whole a call may still answer a repeat: its client may have
lost the end of the answer."""
CANDIDATES = 100
"""How many calls a repeat chooses among: more than there are others that choose just now."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A connection that waits for an answer, and its process. None waits where that is None."""

    id: UUID
    process: UUID | None


@dataclass(frozen=True, kw_only=True)
class NewCall:
    """What makes a submission a call. It has a digest unless it has an idempotency key."""

    credential: str
    digest: bytes | None
    hold: Hold


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A call that has ended, or (with state None) is gone.

    `line` is where its result line lies, `batch` the id of the last batch that it was in.
    """

    job_id: UUID
    state: JobState | None
    error: str | None
    line: tuple[str, int] | None
    batch: UUID | None


def insert_calls(session: Session, calls: Sequence[tuple[UUID, NewCall]]) -> None:
    """Add the rows of calls, in the transaction that stores their jobs."""
    if calls:
        session.execute(
            insert(table_of(Call)),
            [
                {
                    "job_id": job_id,
                    "credential": call.credential,
                    "digest": call.digest,
                    "hold": call.hold.id,
                    "attendant": call.hold.process,
                }
                for job_id, call in calls
            ],
        )


def take(db: Database, credential: str, digest: bytes, hold: Hold) -> UUID | None:
    """Let a repeat take over a call of the same credential and content. None if there is none.

    One that nobody attends comes first, then the one that is held longest, since its connection is
    the likeliest to be dead; then the one whose answer was sent last. Of repeats that come at once
    each takes another call.
    """
    values = {"credential": credential, "digest": digest, **_holding(hold)}
    for statement in _TAKE:
        while True:
            with db.begin() as session:
                seen, job_id = session.execute(statement, values).one()
            if job_id is not None:
                found: UUID = job_id
                return found
            if seen < CANDIDATES:
                break  # others took what there was
    return None


# What is locked must still have the hold that was seen: of a call that somebody has taken over
# since, Postgres would lock the new version, although it is no longer the one held longest.
_TAKE_ONE = """
WITH seen AS MATERIALIZED (
    SELECT job_id, hold, row_number() OVER () AS place
    FROM (SELECT job_id, hold FROM haulier.calls
          WHERE credential = :credential AND digest = :digest AND {which} LIMIT {most}) AS found),
free AS MATERIALIZED (
    SELECT calls.job_id FROM seen JOIN haulier.calls ON calls.job_id = seen.job_id
    WHERE calls.hold = seen.hold ORDER BY seen.place LIMIT 1 FOR UPDATE OF calls SKIP LOCKED),
taken AS (
    UPDATE haulier.calls SET attendant = :process, hold = :hold, held_since = clock_timestamp(),
        delivered_at = NULL
    FROM free WHERE calls.job_id = free.job_id RETURNING calls.job_id)
SELECT (SELECT count(*) FROM seen), (SELECT job_id FROM taken)
"""
_TAKE = tuple(
    text(_TAKE_ONE.format(which=which, most=CANDIDATES)).bindparams(
        bindparam("process", type_=Uuid), bindparam("hold", type_=Uuid)
    )
    for which in (
        "delivered_at IS NULL AND attendant IS NULL ORDER BY held_since",
        "delivered_at IS NULL AND attendant IS NOT NULL ORDER BY held_since",
        f"delivered_at > now() - interval '{LOST_TAIL.total_seconds()} s'"
        " ORDER BY delivered_at DESC",
    )
)


def _holding(hold: Hold) -> dict[str, UUID | None]:
    return {"process": hold.process, "hold": hold.id}


def attend(db: Database, job_id: UUID, hold: Hold) -> bool:
    """Hold this call. False if the job is no call."""
    with db.begin() as session:
        found = session.scalar(
            update(Call)
            .where(Call.job_id == job_id)
            .values(attendant=hold.process, hold=hold.id, held_since=func.clock_timestamp())
            .returning(Call.job_id)
        )
        return found is not None


def let_go(
    db: Database, *, released: Collection[UUID] = (), delivered: Collection[UUID] = ()
) -> None:
    """Note that these holds have ended: without the answer, or after it was sent whole.

    A call that another connection has taken over since stays as it is.
    """
    with db.begin() as session:
        for holds, is_delivered in ((released, False), (delivered, True)):
            if not holds:
                continue
            # In one order for everybody, so that no two wait for each other.
            mine = (
                select(Call.job_id)
                .where(Call.hold == any_(cast(list(holds), ARRAY(Uuid))))
                .order_by(Call.job_id)
                .with_for_update()
                .cte("mine")
            )
            changes = {"attendant": None} | ({"delivered_at": func.now()} if is_delivered else {})
            session.execute(
                update(Call)
                .where(Call.job_id.in_(select(mine.c.job_id)))
                .values(changes)
                .execution_options(synchronize_session=False)
            )


def beat(db: Database, process: UUID) -> None:
    """Say that a process lives, and let go of the calls of those that have died."""
    with db.begin() as session:
        session.execute(
            insert(Attendant)
            .values(id=process)
            .on_conflict_do_update(index_elements=["id"], set_={"seen_at": func.now()})
        )
    with db.begin() as session:
        dead = session.scalars(_BURY, {"unseen": UNSEEN}).all()
        if dead:
            session.execute(_FREE, {"dead": list(dead)})


def leave(db: Database, process: UUID) -> None:
    """Let go of all calls of a process that ends."""
    with db.begin() as session:
        session.execute(_FREE, {"dead": [process]})
        session.execute(text("DELETE FROM haulier.attendants WHERE id = :id"), {"id": process})


_BURY = text("""
DELETE FROM haulier.attendants WHERE id IN (
    SELECT id FROM haulier.attendants WHERE seen_at < now() - :unseen
    ORDER BY id FOR UPDATE SKIP LOCKED)
RETURNING id
""")
_FREE = text("""
UPDATE haulier.calls SET attendant = NULL WHERE job_id IN (
    SELECT job_id FROM haulier.calls WHERE attendant = ANY(:dead) ORDER BY job_id FOR UPDATE)
""").bindparams(bindparam("dead", type_=ARRAY(Uuid)))


def settled(db: Database, job_ids: Collection[UUID]) -> list[Settled]:
    """Return those of these calls that have ended or are gone."""
    with db.begin() as session:
        rows = session.execute(_SETTLED, {"ids": list(job_ids)}).all()
    return [
        Settled(
            job_id=row.id,
            state=None if row.state is None else JobState(row.state),
            error=row.error,
            line=None if row.blob is None else (row.blob, row.bytes),
            batch=row.batch_id,
        )
        for row in rows
    ]


_SETTLED = text("""
SELECT asked.id, jobs.state, jobs.error, segments.blob, segments.bytes, (
    SELECT batch_id FROM haulier.parts WHERE parts.job_id = asked.id
    ORDER BY settle_order DESC NULLS LAST LIMIT 1) AS batch_id
FROM unnest(:ids) AS asked (id)
LEFT JOIN haulier.jobs ON jobs.id = asked.id
LEFT JOIN haulier.segments
    ON segments.job_id = jobs.id AND segments.generation = jobs.generation
WHERE jobs.id IS NULL OR jobs.finished_at IS NOT NULL
""").bindparams(bindparam("ids", type_=ARRAY(Uuid)))


def valid_credentials(db: Database, ids: Collection[str]) -> set[str]:
    """Return those of these credentials that are valid now."""
    with db.begin() as session:
        return set(session.scalars(_VALID, {"ids": list(ids)}))


_VALID = text("""
SELECT tokens.id FROM haulier.tokens JOIN haulier.producers ON producers.name = tokens.producer
WHERE tokens.id = ANY(:ids) AND tokens.revoked_at IS NULL AND producers.disabled_at IS NULL
    AND coalesce(tokens.expires_at > now(), true)
""").bindparams(bindparam("ids", type_=ARRAY(Text)))
