"""The smallest thing: three requests, one shard, one worker, and a kill at the worst moment."""

from service.rules.states import JobState
from tests.pipeline import Pipeline, chat
from tests.simulator import Simulator


def test_three_requests_come_back_in_input_order(pipeline: Pipeline, simulator: Simulator) -> None:
    pipeline.worker()
    pipeline.scheduler()
    job_id = pipeline.submit(chat("b", "a", "c"))

    job = pipeline.ended(job_id)

    assert job.state is JobState.COMPLETED
    assert (job.total, job.succeeded, job.failed, job.pending) == (3, 3, 0, 0)
    assert [line["custom_id"] for line in pipeline.results(job_id)] == ["b", "a", "c"]
    assert simulator.batches_created == 1


def test_a_worker_killed_between_create_and_its_commit_buys_one_batch(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    simulator.hold("create", after_commit=True)
    worker = pipeline.worker()
    pipeline.scheduler()
    job_id = pipeline.submit(chat("a", "b", "c"))
    simulator.wait_held("create", timeout=60)

    worker.kill()
    simulator.release(answered=False)
    pipeline.worker()
    job = pipeline.ended(job_id)

    assert job.state is JobState.COMPLETED
    assert job.succeeded == 3
    assert simulator.batches_created == 1
