"""A canary goes first, and the rest of its job waits for it: through the whole pipeline."""

from typing import Any
from uuid import UUID

import httpx
import psycopg
from psycopg.types.json import Jsonb

from service.rules.states import JobState
from tests.acceptance.test_pipeline import assert_complete, ids
from tests.acceptance.test_retry import http
from tests.eventually import eventually
from tests.pipeline import Pipeline, chat
from tests.simulator import Simulator

__all__ = ["http"]


def shown(http: httpx.Client, job_id: UUID) -> dict[str, Any]:
    found: dict[str, Any] = http.get(f"/v1/jobs/{job_id}").json()
    return found


def test_the_rest_of_a_job_waits_for_its_canary(
    pipeline: Pipeline, simulator: Simulator, http: httpx.Client, database_url: str
) -> None:
    simulator.line_rule("error", contains="Say bad", message="Invalid model specified")
    pipeline.worker()
    pipeline.scheduler()
    good = pipeline.submit(chat(*ids(9), canary=3), shard_requests=4)
    hook = [{"task": "t", "queue": "q"}]
    submitted = http.post(
        "/v1/jobs", json=chat("bad1", "r1", "bad2", *ids(20), canary=3, notify=hook)
    ).json()
    bad, ended = UUID(submitted["id"]), pipeline.ended(good)
    with psycopg.connect(database_url) as connection:
        spec = chat("bad1", *ids(4), canary=1)
        row = connection.execute("SELECT haulier.enqueue(%s)", [Jsonb(spec)]).fetchone()
        assert row is not None
        enqueued = row[0]

    assert (ended.succeeded, ended.held, ended.held_at) == (9, None, None)
    assert_complete(pipeline, ended, ids(9))
    sizes = [part.requests for part, _ in pipeline.parts(good)]
    assert sizes == [3, 4, 2]

    eventually(lambda: shown(http, bad)["held_at"] is not None)
    eventually(lambda: shown(http, enqueued)["held_at"] is not None)
    held = shown(http, bad)
    assert (held["succeeded"], held["failed"], held["pending"]) == (1, 2, 20)
    assert (held["canary"], held["canary_failures"]) == (3, 1)
    assert held["waiting"]["code"] == "held"
    assert "2 of the first 3 requests failed" in held["waiting"]["detail"]
    told = http.get(f"/v1/jobs/{bad}/deliveries").json()["data"]
    assert [each["event"] for each in told] == ["job.held"]
    assert simulator.executed("r0019") == 0

    assert http.post(f"/v1/jobs/{bad}/release").status_code == 202
    job = pipeline.ended(bad)
    assert (job.succeeded, job.failed) == (21, 2)
    assert_complete(pipeline, job, ["bad1", "r1", "bad2", *ids(20)])
    again = http.post(f"/v1/jobs/{bad}/release")
    assert (again.status_code, again.json()["type"]) == (409, "urn:haulier:problem:nothing-held")
    events = [event["target"] for event in http.get(f"/v1/jobs/{bad}/events").json()["data"]]
    assert {"held", "released"} <= set(events)

    assert http.post(f"/v1/jobs/{enqueued}/cancel").status_code == 202
    cancelled = pipeline.ended(enqueued)
    assert cancelled.state is JobState.CANCELLED
    assert (cancelled.failed, cancelled.held_at) == (5, None)
    assert_complete(pipeline, cancelled, ["bad1", *ids(4)])
