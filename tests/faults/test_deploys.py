"""SIGTERM to a worker: short stages end, long ones are handed back at a safe point."""

import signal
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest

from service.rules.states import BatchState
from service.store import engine
from service.store.models import Batch
from tests.eventually import eventually
from tests.faults.conservation import assert_conserved, ids
from tests.pipeline import Pipeline, chat
from tests.processes import Running
from tests.simulator import KEY, Simulator

LEASE = timedelta(seconds=4)
REQUESTS = ids(40)

Start = Callable[[Pipeline, Simulator], Running]


def celery(pipeline: Pipeline, _simulator: Simulator) -> Running:
    return pipeline.worker()


def haulier_worker(pipeline: Pipeline, simulator: Simulator) -> Running:
    return pipeline.processes.haulier(
        "worker", TOGETHER_BASE_URL=simulator.url, TOGETHER_API_KEY=KEY
    )


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    return {**environment, "HAULIER_LEASE_SECONDS": str(LEASE.total_seconds())}


def only_batch(pipeline: Pipeline, job_id: UUID) -> Batch:
    [batch] = pipeline.batches(job_id)
    return batch


def assert_given_back(pipeline: Pipeline, batch: Batch) -> None:
    """Nobody's, due at once, and nothing held against it."""
    assert (batch.lease, batch.leased_until) == (None, None)
    assert (batch.tries, batch.failures) == (0, 0)
    assert batch.not_before <= engine.clock(pipeline.db)


@pytest.mark.parametrize("start", [celery, pytest.param(haulier_worker, marks=pytest.mark.slow)])
def test_a_short_stage_ends_before_its_worker_does(
    pipeline: Pipeline, simulator: Simulator, start: Start
) -> None:
    simulator.hold("create", after_commit=True)
    pipeline.scheduler()
    worker = start(pipeline, simulator)
    job_id = pipeline.submit(chat(*REQUESTS))
    simulator.wait_held("create", timeout=60)

    worker.signal(signal.SIGTERM)
    simulator.release()
    assert worker.wait() == 0

    batch = only_batch(pipeline, job_id)
    assert batch.state is BatchState.CREATED
    assert (batch.lease, batch.tries, batch.failures) == (None, 0, 0)
    start(pipeline, simulator)
    assert_conserved(pipeline, simulator, pipeline.ended(job_id), REQUESTS, batches=1)
    assert len(simulator.requests("create")) == 1


@pytest.mark.parametrize("start", [pytest.param(celery, marks=pytest.mark.slow), haulier_worker])
def test_a_long_upload_is_handed_back_and_done_by_the_next_worker(
    pipeline: Pipeline, simulator: Simulator, start: Start
) -> None:
    simulator.fault("put", "slow", bytes_per_second=4_000_000)
    spec = chat(*REQUESTS)
    for request in spec["requests"]:
        request["body"]["messages"][0]["content"] = "x" * 780_000
    scheduler = pipeline.scheduler()
    worker = start(pipeline, simulator)
    job_id = pipeline.submit(spec)
    eventually(lambda: _extended(only_batch(pipeline, job_id)), 60)
    # So that the row stands still once it is given back.
    scheduler.kill()

    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0

    batch = only_batch(pipeline, job_id)
    assert batch.state is BatchState.QUEUED
    assert_given_back(pipeline, batch)
    assert batch.last_error is not None
    assert "handed back" in batch.last_error
    pipeline.scheduler()
    start(pipeline, simulator)
    assert_conserved(pipeline, simulator, pipeline.ended(job_id), REQUESTS, batches=1)


_first_seen: dict[UUID, object] = {}


def _extended(batch: Batch) -> bool:
    """Whether the lease was extended, so that the upload has been under way for a while."""
    if batch.leased_until is None:
        return False
    return batch.leased_until != _first_seen.setdefault(batch.id, batch.leased_until)
