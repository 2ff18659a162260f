"""An account that is refused or slowed down costs time, never an attempt."""

import pytest

from service.rules.states import BatchState, JobState
from service.store.accounts import accounts
from service.store.cancel import cancel
from tests.acceptance.test_pipeline import assert_complete, ids
from tests.eventually import eventually
from tests.pipeline import Pipeline, chat
from tests.simulator import KEY, Simulator


@pytest.fixture
def running(pipeline: Pipeline) -> Pipeline:
    pipeline.worker()
    pipeline.scheduler()
    return pipeline


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refused_account_is_paused_probed_and_reopened(
    running: Pipeline, simulator: Simulator, status: int
) -> None:
    simulator.keys({KEY: status})
    # Of different priority, so that they do not share a batch.
    jobs = [running.submit(chat(*ids(2), max_attempts=1, priority=n)) for n in range(3)]
    (account,) = eventually(lambda: accounts(running.db))
    assert account.blocked_since is not None
    assert str(status) in (account.reason or "")
    eventually(lambda: accounts(running.db)[0].refusals >= 3)
    # One at a time: a refusal for each probe, not for each batch.
    calls = sum(call.status == status for call in simulator.requests())
    assert calls <= accounts(running.db)[0].refusals + 3

    simulator.keys({})
    for job_id in jobs:
        job = running.ended(job_id)
        assert_complete(running, job, ids(2))
        assert job.succeeded == 2
    assert simulator.batches_created == 3
    (account,) = accounts(running.db)
    assert (account.blocked_since, account.paused_until, account.refusals) == (None, None, 0)


def test_used_up_credit_leaves_what_was_bought_to_be_brought_home(
    running: Pipeline, simulator: Simulator
) -> None:
    simulator.batch_rule(hang_seconds=1.0)
    first = running.submit(chat("a", "b"))
    eventually(lambda: [b.state for b in running.batches(first)] == [BatchState.CREATED])
    simulator.fault("create", "status", status=402, times=3, message="spending limit")
    second = running.submit(chat("c"))

    assert running.ended(first).succeeded == 2
    assert running.ended(second).succeeded == 1
    assert simulator.batches_created == 2


def test_a_429_slows_the_whole_account_down(running: Pipeline, simulator: Simulator) -> None:
    simulator.fault("create_file", "status", status=429, reset_seconds=2.0)

    job = running.ended(running.submit(chat(*ids(8), max_attempts=1), shard_requests=1))

    assert_complete(running, job, ids(8))
    uploads = simulator.requests("create_file")
    limited = next(call for call in uploads if call.status == 429)
    # What was on its way already may still arrive; nothing new sets out within the time.
    within = [call for call in uploads if 1.0 < (call.at - limited.at) < 1.9]
    assert within == []


def test_a_full_queue_over_there_is_no_attempt(running: Pipeline, simulator: Simulator) -> None:
    words = "The batch queue is full, try again later"
    simulator.fault("create", "status", status=400, times=2, message=words)

    job = running.ended(running.submit(chat("a", max_attempts=1)))

    assert job.succeeded == 1
    assert simulator.batches_created == 1


def test_a_cancel_catches_a_create_that_is_in_flight(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    simulator.batch_rule(hang=True, share=0.5)
    simulator.hold("create", after_commit=True)
    worker = pipeline.worker()
    pipeline.scheduler()
    job_id = pipeline.submit(chat(*ids(4)))
    simulator.wait_held("create", timeout=60)

    cancel(pipeline.db, job_id)
    worker.kill()
    simulator.release(answered=False)
    pipeline.worker()
    job = pipeline.ended(job_id)

    assert job.state is JobState.CANCELLED
    assert_complete(pipeline, job, ids(4))
    (batch,) = simulator.account().batches
    assert batch.status == "CANCELLED"
    assert job.succeeded == sum(simulator.billed(custom_id) for custom_id in ids(4))


def test_cancelling_twice_is_cancelling_once(running: Pipeline, simulator: Simulator) -> None:
    simulator.batch_rule(hang=True, share=0.0)
    job_id = running.submit(chat("a"))
    eventually(lambda: [b.state for b in running.batches(job_id)] == [BatchState.CREATED])

    cancel(running.db, job_id)
    cancel(running.db, job_id)
    job = running.ended(job_id)
    cancel(running.db, job_id)

    assert job.state is JobState.CANCELLED
    assert len(simulator.requests("cancel")) == 1
