"""Outages of a lane, played by the simulator: nothing is lost, no attempt is spent."""

import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from service.rules.lanes import Health, Trouble
from service.rules.states import LaneState
from service.store.health import health_of
from service.store.models import Lane
from tests.eventually import eventually
from tests.pipeline import Pipeline, chat
from tests.simulator import KEY, Simulator

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


def of_model(model: str, spec: dict[str, Any]) -> dict[str, Any]:
    for request in spec["requests"]:
        request["body"]["model"] = model
    return spec


def test_an_outage_of_lines_makes_the_lane_rest_and_costs_no_attempt(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    simulator.outage("lines", message=TROUBLE)
    pipeline.worker()
    pipeline.scheduler()
    jobs = [pipeline.submit(chat(*names(prefix, 60))) for prefix in "ab"]
    eventually(lambda: health(pipeline).rests >= 2, 30)
    in_vain = simulator.account(KEY).lines
    assert max(line.executed for line in in_vain.values()) <= 8
    assert all(attempts(pipeline, job_id) == {0} for job_id in jobs)

    simulator.scenario()
    jobs.append(pipeline.submit(chat(*names("c", 300))))
    settled_well(pipeline, jobs)
    assert health(pipeline).state is LaneState.HEALTHY
    assert all(attempts(pipeline, job_id) == {0} for job_id in jobs)
    assert simulator.books().totals.duplicate_successes == 0


def test_two_lanes_are_ill_at_once_and_a_third_one_does_not_notice(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    simulator.outage("batches", model="^failing")
    simulator.outage("creates", model="^refusing", status=503)
    pipeline.worker()
    pipeline.scheduler()
    models = ("failing", "refusing")

    def submitted(model: str, prefix: str) -> UUID:
        spec = of_model(model, chat(*names(f"{model}-{prefix}", 30)))
        return pipeline.submit(spec, shard_requests=10)

    first = [submitted(model, "a") for model in models]
    # The others share no batch with them: one batch alone is no evidence.
    eventually(lambda: all(map(pipeline.batch_count, first)))
    ill = [*first, *(submitted(model, prefix) for model in models for prefix in "bc")]
    well = pipeline.submit(of_model("working", chat(*names("d", 30))))
    eventually(lambda: not health(pipeline, "failing").is_healthy, 30)
    eventually(lambda: not health(pipeline, "refusing").is_healthy, 30)
    settled_well(pipeline, [well])
    assert health(pipeline, "working").rests == 0
    evidence = [health(pipeline, name).evidence for name in ("failing", "refusing")]
    assert [found and found.kind for found in evidence] == [Trouble.BATCHES, Trouble.CREATES]

    simulator.scenario()
    settled_well(pipeline, ill)
    assert all(attempts(pipeline, job_id) == {0} for job_id in ill)
    assert simulator.books().totals.duplicate_successes == 0


def test_a_job_that_is_ill_alone_spends_attempts_and_holds_nobody_up(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    simulator.outage("lines", contains="Say sick", message=TROUBLE)
    pipeline.worker()
    pipeline.scheduler()
    sick = pipeline.submit(chat(*names("sick", 25), max_attempts=1))
    # It shares no batch, so its requests keep their names.
    eventually(lambda: simulator.batches_created == 1)
    for prefix in "ab":
        settled_well(pipeline, [pipeline.submit(chat(*names(prefix, 25)))])
    ended = pipeline.ended(sick)
    assert (ended.failed, health(pipeline).rests) == (25, 0)
    # Three rounds went uncounted, and the fourth was the attempt.
    assert simulator.executed("sick000") == 4


@pytest.mark.slow
def test_a_lane_that_flaps_loses_nothing(pipeline: Pipeline, simulator: Simulator) -> None:
    simulator.outage("lines", seconds=2, every=5)
    pipeline.worker()
    pipeline.scheduler()
    jobs = []
    for number in range(12):
        jobs.append(pipeline.submit(chat(*names(f"{number}-", 40))))
        time.sleep(0.5)  # arrivals go on while the lane flaps
    settled_well(pipeline, jobs)
    assert simulator.books().totals.duplicate_successes == 0
