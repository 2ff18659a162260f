"""Outages of a lane, played by the simulator: nothing is lost, no attempt is spent."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select

from service.rules.lanes import Health
from service.rules.states import LaneState
from service.store.health import health_of
from service.store.models import Lane
from tests.eventually import eventually
from tests.pipeline import Pipeline, chat
from tests.simulator import Simulator

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
TROUBLE = "Internal Server Error"


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number:03}" for number in range(count)]


def health(pipeline: Pipeline, model: str = MODEL) -> Health:
    with pipeline.db.begin() as session:
        return health_of(session.scalar(select(Lane).where(Lane.model == model)))


def settled_well(pipeline: Pipeline, jobs: Sequence[UUID]) -> None:
    for job_id in jobs:
        job = pipeline.ended(job_id)
        assert (job.state, job.failed, job.pending) == ("completed", 0, 0)


def attempts(pipeline: Pipeline, job_id: UUID) -> set[int]:
    """The attempts that the parts of a job have spent of their requests."""
    found: set[int] = set()
    for part, _ in pipeline.parts(job_id):
        manifest: Any = part.manifest if part.manifest is not None else part.manifest_blob
        found |= {entry.attempts for entry in pipeline.blobs.get_manifest(manifest)}
    return found


def test_an_outage_of_lines_makes_the_lane_rest_and_costs_no_attempt(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    simulator.line_rule("error", message=TROUBLE)
    pipeline.worker()
    pipeline.scheduler()
    jobs = [pipeline.submit(chat(*names(prefix, 60))) for prefix in "ab"]
    eventually(lambda: health(pipeline).rests >= 2, 30)
    in_vain = simulator.account("test-key").lines
    assert max(line.executed for line in in_vain.values()) <= 8
    assert all(attempts(pipeline, job_id) == {0} for job_id in jobs)

    simulator.scenario()
    jobs.append(pipeline.submit(chat(*names("c", 300))))
    settled_well(pipeline, jobs)
    assert health(pipeline).state is LaneState.HEALTHY
    assert all(attempts(pipeline, job_id) == {0} for job_id in jobs)
