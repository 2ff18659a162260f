"""What became of requests: of one, and of all of a job's as of one instant."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec
from sqlalchemy import select

from service.rules.states import JobState, PartState
from service.rules.work import FinalLines, Manifest
from service.store.complete import settled_lines
from service.store.engine import Database
from service.store.models import Batch, DeadLetter, Job, Part
from service.store.parts import manifest_of


@dataclass(frozen=True)
class Shard:
    """The requests of a shard, as the producer submitted them."""

    number: int
    manifest: Manifest
    requests: int


@dataclass(frozen=True)
class Traces:
    """The parts of a shard with their batches, oldest first, and a request's dead letter."""

    parts: Sequence[tuple[Part, Batch | None]]
    dead: DeadLetter | None


def shards(db: Database, job_id: UUID) -> list[Shard]:
    """Return all requests of a job by shard; none if its `input` has not been read yet."""
    rows = select(Part).where(Part.job_id == job_id, Part.parent_id.is_(None)).order_by(Part.shard)
    with db.begin() as session:
        return [
            Shard(part.shard, manifest_of(part), part.requests) for part in session.scalars(rows)
        ]


def traces(db: Database, job_id: UUID, shard: int, ordinal: int) -> Traces:
    """Return the parts, the batches and the dead letter of a request."""
    rows = (
        select(Part, Batch)
        .outerjoin(Batch, Batch.id == Part.batch_id)
        .where(Part.job_id == job_id, Part.shard == shard)
        .order_by(Part.attempt, Part.created_at, Part.id)
    )
    with db.begin() as session:
        # As of one instant: a settling in between would make the two disagree.
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        dead = session.get(DeadLetter, (job_id, ordinal))
        return Traces([(part, batch) for part, batch in session.execute(rows)], dead)


def final_lines_of(part: Part) -> FinalLines | None:
    return None if part.final_lines is None else msgspec.convert(part.final_lines, FinalLines)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The state of a job's requests. `failed` are the ordinals of its dead letters, in order.

    For a running job, `lines` are its final lines so far, and `again` are the manifests of parts
    that carry requests once more: any line of such a request is outdated.
    """

    state: JobState
    generation: int
    failed: "array[int]"
    lines: tuple[FinalLines, ...] = ()
    again: tuple[Manifest, ...] = ()


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
            select(Part).where(
                Part.job_id == job_id,
                Part.parent_id.is_not(None),
                Part.state != PartState.SETTLED,
            )
        )
        return Standing(
            state=job.state,
            generation=job.generation,
            failed=failed,
            lines=tuple(settled_lines(session, [job_id])[job_id]),
            again=tuple(manifest_of(part) for part in again),
        )
