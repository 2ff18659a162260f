"""What became of requests: of one, and of all of a job's as of one instant."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec
from sqlalchemy import select

from service.rules.states import OPEN_BATCH_STATES, JobState
from service.rules.work import FinalLines, Shard
from service.store.claim import settled_lines
from service.store.engine import Database
from service.store.models import Batch, DeadLetter, Job


@dataclass(frozen=True)
class Manifest:
    """The requests of a shard, as the producer submitted them."""

    shard: int
    name: str
    requests: int


@dataclass(frozen=True)
class Traces:
    """The batches of a shard, oldest first, and the dead letter of one of its requests."""

    batches: Sequence[Batch]
    dead: DeadLetter | None


def manifests(db: Database, job_id: UUID) -> list[Manifest]:
    """Return all requests of a job by shard; none if its `input` has not been read yet."""
    rows = (
        select(Batch.shard, Batch.manifest_blob, Batch.requests)
        .where(Batch.job_id == job_id, Batch.parent_id.is_(None))
        .order_by(Batch.shard)
    )
    with db.begin() as session:
        found = [Manifest(*row) for row in session.execute(rows)]
        if found:
            return found
        plan = session.scalar(select(Job.plan).where(Job.id == job_id)) or []
    shards = [msgspec.convert(shard, Shard) for shard in plan]
    return [
        Manifest(number, shard.manifest_blob, shard.requests) for number, shard in enumerate(shards)
    ]


def traces(db: Database, job_id: UUID, shard: int, ordinal: int) -> Traces:
    """Return the batches and the dead letter of a request."""
    rows = (
        select(Batch)
        .where(Batch.job_id == job_id, Batch.shard == shard)
        .order_by(Batch.attempt, Batch.created_at, Batch.id)
    )
    with db.begin() as session:
        # As of one instant: a settling in between would make the two disagree.
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        dead = session.get(DeadLetter, (job_id, ordinal))
        return Traces(list(session.scalars(rows)), dead)


def final_lines_of(batch: Batch) -> FinalLines | None:
    return None if batch.final_lines is None else msgspec.convert(batch.final_lines, FinalLines)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The state of a job's requests. `failed` are the ordinals of its dead letters, in order.

    For a running job, `lines` are its final lines so far, and `again` are the manifests of batches
    that carry requests once more: any line of such a request is outdated.
    """

    state: JobState
    generation: int
    failed: "array[int]"
    lines: tuple[FinalLines, ...] = ()
    again: tuple[str, ...] = ()


def standing(db: Database, job_id: UUID) -> Standing | None:
    """Return the state of a job's requests, or None if the job was pruned."""
    with db.begin() as session:
        # A `retry` or a settling between two of these statements would make them disagree.
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        job = session.get(Job, job_id)
        if job is None:
            return None
        ordinals = (
            select(DeadLetter.ordinal)
            .where(DeadLetter.job_id == job_id)
            .order_by(DeadLetter.ordinal)
            .execution_options(yield_per=10_000)
        )
        failed = array("Q", session.scalars(ordinals))
        if job.state is not JobState.RUNNING:
            return Standing(state=job.state, generation=job.generation, failed=failed)
        again = session.scalars(
            select(Batch.manifest_blob).where(
                Batch.job_id == job_id,
                Batch.parent_id.is_not(None),
                Batch.state.in_(OPEN_BATCH_STATES),
            )
        )
        return Standing(
            state=job.state,
            generation=job.generation,
            failed=failed,
            lines=settled_lines(session, job_id),
            again=tuple(again),
        )
