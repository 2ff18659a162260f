"""What Together refuses to one batch stops no other, and ends in bounded time."""

from typing import Any

import pytest
from sqlalchemy import select

from service.rules.retry import MOST_REFUSALS
from service.rules.states import BatchState
from service.store import jobs
from service.store.accounts import accounts
from service.store.cancel import cancel
from service.store.models import Lane
from tests.acceptance.test_pipeline import assert_complete, ids
from tests.eventually import eventually
from tests.factories import MODEL
from tests.pipeline import Pipeline, chat
from tests.simulator import KEY, Simulator

OTHER = "openai/gpt-oss-20b"
FULL = "enqueued tokens limit reached for this model"


@pytest.fixture
def running(pipeline: Pipeline) -> Pipeline:
    pipeline.worker()
    pipeline.scheduler()
    return pipeline


def other(*custom_ids: str) -> dict[str, Any]:
    """A spec of a second model."""
    spec = chat(*custom_ids)
    for request in spec["requests"]:
        request["body"]["model"] = OTHER
    return spec


def held_lanes(running: Pipeline) -> list[str]:
    with running.db.begin() as session:
        return [*session.scalars(select(Lane.model).where(Lane.held_until.is_not(None)))]


def test_a_full_queue_holds_its_lane_alone(running: Pipeline, simulator: Simulator) -> None:
    simulator.fault("create", "status", status=429, message=FULL, target=MODEL, times=None)
    full = [running.submit(chat("a", max_attempts=1)) for _ in range(3)]
    eventually(lambda: held_lanes(running) == [MODEL])

    for job_id in [running.submit(other("b")) for _ in range(5)]:
        assert running.ended(job_id).succeeded == 1
    assert accounts(running.db) == []

    simulator.clear_faults()
    for job_id in full:
        assert_complete(running, running.ended(job_id), ["a"])
        assert running.job(job_id).succeeded == 1
    assert held_lanes(running) == []


def test_a_model_that_the_key_may_not_use_fails_its_batches_and_no_others(
    running: Pipeline, simulator: Simulator
) -> None:
    words = "you may not use this model"
    simulator.fault("create", "status", status=403, message=words, target=MODEL, times=None)
    refused = running.submit(chat("a", "b"))
    others = [running.submit(other("c")) for _ in range(5)]

    for job_id in others:
        assert running.ended(job_id).succeeded == 1
    job = running.ended(refused)

    assert_complete(running, job, ["a", "b"])
    assert job.failed == 2
    letters = jobs.failures(running.db, refused, after=-1, limit=9)
    assert {letter.code for letter in letters} == {"create_refused"}
    assert words in letters[0].message
    refusals = [call for call in simulator.requests("create") if call.status == 403]
    assert len(refusals) == MOST_REFUSALS
    assert accounts(running.db) == []


def test_the_batch_that_was_refused_does_not_keep_a_blocked_account_shut(
    running: Pipeline, simulator: Simulator
) -> None:
    simulator.keys({KEY: 401})
    simulator.fault("create", "status", status=403, target=MODEL, times=None)
    refused = running.submit(chat(*ids(2)))
    eventually(lambda: accounts(running.db))
    other_job = running.submit(other("c"))
    simulator.keys({})

    assert running.ended(other_job).succeeded == 1
    assert running.ended(refused).failed == 2
    (account,) = accounts(running.db)
    assert account.blocked_since is None


def test_a_slow_down_without_a_time_pauses_the_account(
    running: Pipeline, simulator: Simulator
) -> None:
    """A 429 on create that the cheap call gets as well is the account's."""
    simulator.switch(rate_limit_header="none")
    simulator.fault("*", "status", status=429, times=6)
    # Of different priority, so that they do not share a batch.
    jobs = [running.submit(chat("a", max_attempts=1, priority=n)) for n in range(4)]
    for job_id in jobs:
        assert_complete(running, running.ended(job_id), ["a"])
    assert simulator.batches_created == 4


@pytest.mark.parametrize("status", [401, 403])
def test_a_cancelled_job_without_a_key_ends(
    running: Pipeline, simulator: Simulator, status: int
) -> None:
    simulator.keys({KEY: status})
    job_id = running.submit(chat(*ids(3)), shard_requests=1)
    eventually(lambda: accounts(running.db))
    cancel(running.db, job_id)
    job = running.ended(job_id)
    assert_complete(running, job, ids(3))
    assert simulator.batches_created == 0


@pytest.mark.parametrize("status", [401, None], ids=["refused", "another-project"])
def test_a_cancelled_job_ends_although_together_does_not_let_us_see_its_batch(
    pipeline: Pipeline, simulator: Simulator, status: int | None
) -> None:
    simulator.batch_rule(hang=True)
    worker = pipeline.worker()
    pipeline.scheduler()
    job_id = pipeline.submit(chat("a"))
    eventually(lambda: [b.state for b in pipeline.batches(job_id)] == [BatchState.CREATED])
    worker.stop()

    pipeline.use_key("another-project")
    if status is not None:
        simulator.keys({"another-project": status})
    pipeline.worker(HAULIER_SETTLE_PATIENCE_SECONDS="1")
    cancel(pipeline.db, job_id)

    job = pipeline.ended(job_id)
    assert_complete(pipeline, job, ["a"])
    assert job.failed == 1
