"""`/metrics`, as a scraper reads it."""

from datetime import timedelta

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError

from config import VERSION
from service.rules import measures
from service.rules.measures import TOGETHER_CALLS
from service.rules.outcomes import Pause, Usage
from service.rules.states import Stage
from service.store import engine
from service.store.gauges import gauges
from service.store.heartbeats import beat
from service.store.measures import store
from service.store.ticks import Bucket, add_ticks
from tests.api import Api
from tests.eventually import eventually
from tests.factories import settlement
from tests.pipeline import Pipeline, chat
from tests.processes import Processes
from tests.prometheus import needs_promtool, promtool
from tests.simulator import Simulator

Samples = dict[tuple[str, ...], float]


def scraped(api: Api) -> Samples:
    """What is there, by name and the values of its labels."""
    answer = httpx.get(f"{api.url}/metrics", trust_env=False)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_numbers_can_be_had_without_a_token_and_name_nobody(api: Api) -> None:
    api.http.post("/v1/producers", json={"name": "somebody"})
    api.harness.queued(3, producer="somebody")
    answer = httpx.get(f"{api.url}/metrics", trust_env=False)

    assert answer.status_code == 200
    assert "somebody" not in answer.text
    assert "default" not in answer.text


def test_open_work_is_counted_where_it_stands(api: Api) -> None:
    harness = api.harness
    harness.unread()
    harness.created(3)
    parked = harness.queued(3)
    harness.run("UPDATE haulier.batches SET parked_at = now() WHERE id = :id", id=parked)
    harness.waiting(3)
    late = timedelta(minutes=5)
    harness.run("UPDATE haulier.jobs SET not_before = now() - CAST(:late AS interval)", late=late)
    found = scraped(api)

    assert found["haulier_database_up",] == 1
    assert found["haulier_build_info", VERSION] == 1
    assert found["haulier_jobs", "accepted"] == 1
    assert found["haulier_jobs", "running"] == 3
    assert found["haulier_parts_waiting",] == 1
    assert found["haulier_batches", "created"] == 1
    assert found["haulier_batches", "uploaded"] == 0
    assert found["haulier_parked", "batch"] == 1
    assert found["haulier_due", "job"] == 1
    assert found["haulier_oldest_due_seconds", "job"] >= late.total_seconds()


def test_a_paused_account_is_no_late_work(api: Api) -> None:
    batch = api.harness.queued(3)
    claim = api.harness.claim(batch, Stage.UPLOAD)
    api.harness.apply(claim, Pause("no credit", blocked=True))
    # The harness pauses for a second, which a busy machine outlasts.
    api.harness.run("UPDATE haulier.accounts SET paused_until = now() + interval '1 hour'")
    api.harness.due_now(batch)
    found = scraped(api)

    assert found["haulier_accounts_paused", "blocked"] == 1
    assert found["haulier_due", "batch"] == 0
    assert found["haulier_oldest_due_seconds", "batch"] == 0


def test_what_was_done_is_counted_for_ever(api: Api) -> None:
    batch = api.harness.queued(3)
    api.harness.settle(batch, settlement(2, dead=[2], usage=Usage(10, 5, 15)))
    api.harness.run("DELETE FROM haulier.jobs")
    found = scraped(api)

    assert found["haulier_requests_total", "succeeded"] == 2
    assert found["haulier_requests_total", "dead"] == 1
    assert found["haulier_tokens_total", "prompt"] == 10
    assert found["haulier_tokens_total", "completion"] == 5
    assert found["haulier_batches_settled_total",] == 1


def test_processes_are_seen_by_their_heartbeats(api: Api) -> None:
    for number in range(2):
        beat(
            api.db, name=f"w{number}", kind="worker", host="h", pid=1, queues=["transfer"], slots=2
        )
    found = scraped(api)

    assert found["haulier_processes", "worker"] == 2
    assert found["haulier_processes", "scheduler"] == 0
    assert 0 <= found["haulier_heartbeat_age_seconds", "worker"] < 15


def test_ticks_of_all_schedulers_add_up(api: Api) -> None:
    add_ticks(api.db, {0.01: Bucket(3, 0.02), float("inf"): Bucket(1, 40)})
    add_ticks(api.db, {0.5: Bucket(1, 0.3), 0.01: Bucket(1, 0.01)})
    found = scraped(api)

    assert found["haulier_scheduler_tick_seconds_bucket", "0.01"] == 4
    assert found["haulier_scheduler_tick_seconds_bucket", "0.5"] == 5
    assert found["haulier_scheduler_tick_seconds_bucket", "+Inf"] == 6
    assert found["haulier_scheduler_tick_seconds_count",] == 6
    assert round(found["haulier_scheduler_tick_seconds_sum",], 6) == 40.33


def test_a_scheduler_tells_how_long_its_ticks_take(
    processes: Processes, environment: dict[str, str]
) -> None:
    processes.haulier("scheduler")
    connections = engine.create(environment["DATABASE_URL"])
    db = engine.database(connections)

    assert eventually(lambda: gauges(db).ticks)
    connections.dispose()


def test_a_database_that_lacks_our_schema_is_said_to_be_down(api: Api, database_url: str) -> None:
    with psycopg.connect(database_url) as owner:
        owner.execute("DROP TABLE haulier.ticks")
    found = scraped(api)

    assert found["haulier_database_up",] == 0
    assert found["haulier_build_info", VERSION] == 1
    assert ("haulier_jobs", "accepted") not in found


@needs_promtool
def test_names_and_units_are_as_prometheus_wants_them(api: Api) -> None:
    text = httpx.get(f"{api.url}/metrics", trust_env=False).text

    promtool("check", "metrics", given=text)
    # Every series is there from the start, and there are few: none grows with what comes in.
    assert len(text.splitlines()) < 1000


def test_what_workers_measure_is_there_for_a_scraper(
    pipeline: Pipeline, simulator: Simulator, api: Api
) -> None:
    pipeline.worker()
    pipeline.scheduler()
    job = pipeline.submit(chat("a", "b"))
    assert pipeline.ended(job).succeeded == 2

    def worked() -> Samples:
        found = scraped(api)
        assert found["haulier_outcomes_total", "settle"] == 1
        return found

    found = eventually(worked)
    assert found["haulier_together_calls_total", "create", "ok"] == 1
    assert found["haulier_together_calls_total", "create", "failed"] == 0
    assert found["haulier_together_call_seconds_count", "put"] == 1
    assert found["haulier_stage_seconds_count", "upload"] == 1
    assert found["haulier_settle_seconds_count",] == 1
    assert found["haulier_batch_phase_seconds_count", "together"] == 1
    assert found["haulier_admission_wait_seconds_count",] == 1
    assert found["haulier_blob_operations_total", "read", "ok"] > 0
    assert found["haulier_process_starts_total", "worker"] == 1
    assert found["haulier_process_starts_total", "worker_child"] == 2
    assert found["haulier_scratch_free_bytes",] > 0


def test_what_cannot_be_stored_is_kept_and_what_has_no_name_is_other(api: Api) -> None:
    measures.take()
    TOGETHER_CALLS.count("create", "ok", more=3)
    TOGETHER_CALLS.count("what somebody made up", "failed")
    nowhere = engine.create("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(OperationalError):
        store(engine.database(nowhere))
    store(api.db)
    found = scraped(api)

    assert found["haulier_together_calls_total", "create", "ok"] == 3
    assert found["haulier_together_calls_total", "other", "failed"] == 1
    assert measures.take() == {}
