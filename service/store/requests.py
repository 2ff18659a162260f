"""What rows know of single requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec
from sqlalchemy import select

from service.rules.work import FinalLines, Shard
from service.store.engine import Database
from service.store.models import Batch, DeadLetter, Job


@dataclass(frozen=True)
class Manifest:
    """The requests of a shard, as they came in."""

    shard: int
    name: str
    requests: int


@dataclass(frozen=True)
class Traces:
    """The batches of a shard, oldest first, and the dead letter of one of its requests."""

    batches: Sequence[Batch]
    dead: DeadLetter | None


def manifests(db: Database, job_id: UUID) -> list[Manifest]:
    """All requests of a job, by shard. Empty where its `input` has not been read yet."""
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
    """What there is of a request."""
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
