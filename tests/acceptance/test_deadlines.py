"""A deadline is watched by the scheduler, however its job came: through the whole pipeline."""

from typing import Any
from uuid import UUID

import httpx
import psycopg
from psycopg.types.json import Jsonb

from service.rules.states import JobState
from tests.acceptance.test_canaries import shown
from tests.acceptance.test_retry import http
from tests.eventually import eventually
from tests.pipeline import Pipeline, chat
from tests.simulator import Simulator

__all__ = ["http"]

PAST = "2026-11-22T12:00:00Z"


def test_a_missed_deadline_is_told_and_ends_nothing(
    pipeline: Pipeline, simulator: Simulator, http: httpx.Client, database_url: str
) -> None:
    simulator.hold("create")  # nothing is done in time
    pipeline.worker()
    pipeline.scheduler()
    hook = [{"task": "t", "queue": "q", "events": ["job.deadline_missed"]}]
    fields: dict[str, Any] = {"deadline": 0.5, "on_deadline": "priority"}
    by_http = UUID(http.post("/v1/jobs", json=chat("a", **fields, notify=hook)).json()["id"])
    enqueued = []
    with psycopg.connect(database_url) as connection:
        for spec in (chat("b", **fields), chat("c", deadline=PAST), chat("d", deadline="1h")):
            row = connection.execute("SELECT haulier.enqueue(%s)", [Jsonb(spec)]).fetchone()
            assert row is not None
            enqueued.append(row[0])
    by_sql, refused, easy = enqueued

    eventually(lambda: shown(http, by_http)["deadline_missed_at"] is not None)
    eventually(lambda: shown(http, by_sql)["deadline_missed_at"] is not None)
    for job in (shown(http, by_http), shown(http, by_sql)):
        assert (job["state"], job["priority"], job["raised_priority"]) == ("running", 0, 9)
    told = http.get(f"/v1/jobs/{by_http}/deliveries").json()["data"]
    assert [each["event"] for each in told] == ["job.deadline_missed"]
    metric = 'haulier_jobs_deadline{standing="missed"} 2.0'
    eventually(lambda: metric in http.get("/metrics").text, 15)

    simulator.release()
    assert pipeline.ended(by_http).state is pipeline.ended(by_sql).state is JobState.COMPLETED
    assert shown(http, by_http)["raised_priority"] is None
    events = [event["target"] for event in http.get(f"/v1/jobs/{by_http}/events").json()["data"]]
    assert events.count("deadline_missed") == 1
    assert "priority_changed" in events
    rejected = pipeline.ended(refused)
    assert rejected.state is JobState.REJECTED
    assert "is past" in str(rejected.error)
    done = pipeline.ended(easy)
    assert (done.state, done.deadline_missed_at) == (JobState.COMPLETED, None)
    assert pipeline.job(by_sql).deadline is not None
    assert [line["custom_id"] for line in pipeline.results(by_http)] == ["a"]
