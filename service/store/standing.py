"""What became of a job's requests, as of one instant."""

from array import array
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select

from service.rules.states import OPEN_BATCH_STATES, JobState
from service.rules.work import FinalLines
from service.store.claim import settled_lines
from service.store.engine import Database
from service.store.models import Batch, DeadLetter, Job


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a job stands. `failed` are the ordinals of its dead letters, in order.

    Of a running job, `lines` are what is final so far, and `again` the manifests of batches that
    carry requests once more: what `lines` have of those is outdated.
    """

    state: JobState
    generation: int
    failed: "array[int]"
    lines: tuple[FinalLines, ...] = ()
    again: tuple[str, ...] = ()


def standing(db: Database, job_id: UUID) -> Standing | None:
    """None where the job has been forgotten."""
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
