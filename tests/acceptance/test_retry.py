"""Running dead letters again: new batches of the same job, a new generation of its results."""

from collections.abc import Iterator

import httpx
import pytest

from service.rules.states import JobState
from tests.acceptance.test_pipeline import assert_complete, ids
from tests.api import client, started_url
from tests.pipeline import Pipeline, chat
from tests.processes import Running
from tests.simulator import Simulator


@pytest.fixture
def http(api_process: Running) -> Iterator[httpx.Client]:
    with client(started_url(api_process)) as opened:
        yield opened


def test_retried_requests_become_a_new_generation_and_the_old_one_stays_readable(
    pipeline: Pipeline, simulator: Simulator, http: httpx.Client
) -> None:
    pipeline.worker()
    pipeline.scheduler()
    simulator.line_rule("error", pattern="r000[13]", times=1, message="Invalid model specified")
    job_id = pipeline.submit(chat(*ids(5)))
    pipeline.ended(job_id)
    old = http.get(f"/v1/jobs/{job_id}/results")
    simulator.hold("create")

    answer = http.post(f"/v1/jobs/{job_id}/retry", json={"custom_ids": ["r0003"]})
    simulator.wait_held("create", timeout=30)
    meanwhile = http.get(f"/v1/jobs/{job_id}/results")
    again = http.post(f"/v1/jobs/{job_id}/retry")
    simulator.release()
    job = pipeline.ended(job_id)

    assert answer.status_code == 202
    assert answer.json()["pending"] == 1
    assert (meanwhile.status_code, meanwhile.content) == (200, old.content)
    assert (again.status_code, again.json()["type"]) == (409, "urn:haulier:problem:not-retryable")
    assert job.generation == 2
    assert_complete(pipeline, job, ids(5))
    assert (job.succeeded, job.failed) == (4, 1)
    assert simulator.executed("r0003") == 2
    assert simulator.executed("r0000") == 1


def test_a_cancelled_job_can_be_taken_up_again(
    pipeline: Pipeline, simulator: Simulator, http: httpx.Client
) -> None:
    pipeline.worker()
    job_id = pipeline.submit(chat(*ids(4)), shard_requests=2)
    assert http.post(f"/v1/jobs/{job_id}/cancel").status_code == 202
    pipeline.scheduler()
    assert pipeline.ended(job_id).state is JobState.CANCELLED
    assert simulator.batches_created == 0

    assert http.post(f"/v1/jobs/{job_id}/retry").json()["pending"] == 4
    job = pipeline.ended(job_id)

    assert job.state is JobState.COMPLETED
    assert_complete(pipeline, job, ids(4))
    assert job.succeeded == 4
    assert simulator.batches_created == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [({"custom_ids": ["nobody"]}, 422), ({"who": 1}, 422), (None, 409)],
)
def test_what_did_not_fail_cannot_be_retried(
    pipeline: Pipeline, http: httpx.Client, body: dict[str, object] | None, status: int
) -> None:
    job_id = pipeline.submit(chat("a"))

    answer = http.post(f"/v1/jobs/{job_id}/retry", json=body)

    assert answer.status_code == status
