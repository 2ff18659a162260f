"""Workers that stand still for longer than their lease, and messages that come twice."""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from celery import Celery

from service.rules.admission import Capacity
from service.rules.states import BatchState, JobState
from service.store import jobs
from tests.eventually import eventually
from tests.factories import admit
from tests.faults.conservation import assert_conserved, ids
from tests.faults.freezing import freeze, thaw
from tests.pipeline import Pipeline, chat
from tests.processes import Running
from tests.simulator import Simulator

LEASE = timedelta(seconds=4)
REQUESTS = ids(8)


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    return {**environment, "HAULIER_LEASE_SECONDS": str(LEASE.total_seconds())}


def moves(pipeline: Pipeline, job_id: UUID) -> list[tuple[int, str]]:
    """The job's whole log."""
    found = jobs.events(pipeline.db, job_id, after=0, limit=1000)
    return [(event.id, event.target) for event in found]


def let_in(pipeline: Pipeline) -> None:
    """Do what a scheduler does with parts that wait."""
    assert admit(pipeline.db, limit=9, capacity=Capacity(batches=None, tokens=10**9))


def frozen_in(pipeline: Pipeline, simulator: Simulator, operation: str) -> tuple[Running, UUID]:
    """A worker that stands still in a call to Together, and the job that it is on."""
    pipeline.scheduler()
    worker = pipeline.worker()
    job_id = pipeline.submit(chat(*REQUESTS))
    simulator.wait_held(operation, timeout=60)
    freeze(worker)
    assert simulator.held(), "the call was given up before the worker stood still"
    return worker, job_id


def wake(pipeline: Pipeline, worker: Running, job_id: UUID) -> None:
    """Let a frozen worker go on, and see that it changes nothing."""
    log = moves(pipeline, job_id)
    thaw(worker)
    eventually(lambda: "lease_lost" in worker.output, 60)
    assert worker.alive
    assert moves(pipeline, job_id) == log


@pytest.mark.parametrize("operation", [pytest.param("put", marks=pytest.mark.slow), "content"])
def test_a_worker_frozen_in_a_transfer_changes_nothing_when_it_wakes(
    pipeline: Pipeline, simulator: Simulator, operation: str
) -> None:
    simulator.hold(operation)
    frozen, job_id = frozen_in(pipeline, simulator, operation)

    pipeline.worker()
    job = pipeline.ended(job_id)
    simulator.release()
    wake(pipeline, frozen, job_id)

    assert_conserved(pipeline, simulator, job, REQUESTS, batches=1)
    assert pipeline.job(job_id).generation == 1


def test_a_create_that_arrives_after_it_was_given_up_buys_nothing(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    simulator.hold("create")
    frozen, job_id = frozen_in(pipeline, simulator, "create")

    pipeline.worker()
    job = pipeline.ended(job_id)
    simulator.release()
    wake(pipeline, frozen, job_id)

    assert [line["custom_id"] for line in pipeline.results(job_id)] == REQUESTS
    assert (job.state, job.succeeded) == (JobState.COMPLETED, len(REQUESTS))
    # The late batch fails, since its input file is gone, unless the sweep cancels it before that.
    buying_nothing = (["COMPLETED", "FAILED"], ["CANCELLED", "COMPLETED"])
    eventually(lambda: sorted(statuses(simulator)) in buying_nothing)
    assert Counter(simulator.billed(custom_id) for custom_id in REQUESTS) == {1: len(REQUESTS)}


def test_a_batch_that_shows_up_after_it_was_given_up_is_cancelled(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    simulator.switch(list_lag_seconds=3600)
    simulator.rule(batches=[{"nth": 1, "hang": True, "share": 0.5}, {"nth": 2, "hang_seconds": 2}])
    simulator.hold("create", after_commit=True)
    frozen, job_id = frozen_in(pipeline, simulator, "create")

    pipeline.worker()
    eventually(lambda: pipeline.batches(job_id)[0].state is BatchState.CREATED, 60)
    simulator.switch(list_lag_seconds=0)
    job = pipeline.ended(job_id)
    simulator.release()
    wake(pipeline, frozen, job_id)

    assert [line["custom_id"] for line in pipeline.results(job_id)] == REQUESTS
    assert (job.state, job.succeeded) == (JobState.COMPLETED, len(REQUESTS))
    assert sorted(statuses(simulator)) == ["CANCELLED", "COMPLETED"]
    # Half of the twin was done when it was cancelled. No request was paid for three times.
    half = len(REQUESTS) // 2
    assert Counter(simulator.billed(custom_id) for custom_id in REQUESTS) == {1: half, 2: half}


def statuses(simulator: Simulator) -> list[str]:
    return [batch.status for batch in simulator.account().batches]


# --- messages that come twice --------------------------------------------------------------------


def test_a_message_that_comes_twice_is_dropped_without_a_word(
    pipeline: Pipeline, simulator: Simulator, redis_url: str
) -> None:
    worker = pipeline.worker()
    job_id = pipeline.submit(chat(*REQUESTS))

    def state() -> BatchState:
        return pipeline.batches(job_id)[0].state

    with Celery("test", broker=redis_url) as app:

        def twice(stage: str, argument: object, queue: str = "haulier.transfer") -> None:
            for _ in range(2):
                app.send_task(f"haulier.{stage}", args=[argument], queue=queue)

        twice("split", str(job_id))
        let_in(pipeline)
        batch_id = str(pipeline.batches(job_id)[0].id)
        twice("upload", batch_id)
        eventually(lambda: state() is BatchState.UPLOADED)
        twice("create", batch_id, "haulier.control")
        eventually(lambda: state() is BatchState.CREATED)

        def ended() -> bool:
            twice("poll", [batch_id], "haulier.control")
            return state() is not BatchState.CREATED

        eventually(ended, interval=0.3)
        twice("fetch", batch_id)
        eventually(lambda: state() is BatchState.SETTLED)
        twice("assemble", [str(job_id)])
        job = pipeline.ended(job_id)
        for stage in ("upload", "fetch"):
            twice(stage, batch_id)
        twice("create", batch_id, "haulier.control")
        # Behind all others: once this one has run, so have they.
        last = pipeline.submit(chat("last"))
        let_in(pipeline)
        last_batch = pipeline.batches(last)[0].id
        twice("upload", str(last_batch))
        eventually(lambda: pipeline.batches(last)[0].state is BatchState.UPLOADED)

    targets = Counter(target for _, target in moves(pipeline, job_id))
    assert targets.pop("queued", 1) == 1
    assert targets == dict.fromkeys(
        ("running", "uploaded", "created", "ended", "settled", "completed"), 1
    )
    assert_conserved(pipeline, simulator, job, REQUESTS, batches=1)
    assert len(simulator.requests("put")) == 2  # with that of the last
    assert said_above_info(worker) == []


def said_above_info(worker: Running) -> list[str]:
    """Warnings and errors, Python's own left out (Celery warns of root)."""
    lines = [msgspec.json.decode(line) for line in worker.output.splitlines()]
    return [
        line["event"]
        for line in lines
        if line["level"] not in {"debug", "info"} and line["logger"] != "py.warnings"
    ]


# --- transfers that take longer than a lease -----------------------------------------------------


def large(count: int, size: int) -> dict[str, Any]:
    """A spec of requests of about `size` bytes each."""
    spec = chat(*ids(count))
    for request in spec["requests"]:
        request["body"]["messages"][0]["content"] = "x" * size
    return spec


@dataclass(frozen=True)
class Slow:
    """A transfer of `bytes` for each of 340 requests, between two moves of the job's log."""

    operation: str
    bytes_per_second: int
    bytes: int
    before: str
    after: str


SLOW = [
    # The kernel takes the last four megabytes of an upload at once; waiting for the answer behind
    # them must not time out.
    Slow("put", 7_000_000, 90_000, "running", "uploaded"),
    Slow("content", 1_000_000, 15_000, "ended", "settled"),
]


@pytest.mark.parametrize("slow", SLOW, ids=lambda slow: slow.operation)
def test_a_transfer_that_outlasts_its_lease_is_done_once(
    pipeline: Pipeline, simulator: Simulator, slow: Slow
) -> None:
    """Two workers, so that one could take the row from the other."""
    simulator.fault(slow.operation, "slow", bytes_per_second=slow.bytes_per_second, times=None)
    pipeline.scheduler()
    workers = [pipeline.worker(), pipeline.worker()]

    job_id = pipeline.submit(large(340, slow.bytes))
    job = pipeline.ended(job_id)

    at = {e.target: e.at for e in jobs.events(pipeline.db, job_id, after=0, limit=1000)}
    assert at[slow.after] - at[slow.before] > LEASE
    assert_conserved(pipeline, simulator, job, ids(340), batches=1)
    assert len(simulator.requests("create_file")) == 1
    assert not any("lease_lost" in worker.output for worker in workers)
