"""Jobs through the whole pipeline: real processes, real servers, the simulator's faults."""

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from celery import Celery

from config.settings import Settings
from service.payloads.bundles import take_in_together
from service.rules.errors import BadInput
from service.rules.permissions import Permissions
from service.rules.shared_ids import shared_ids
from service.rules.spec import read_spec
from service.rules.states import BatchState, JobState
from service.store import engine, jobs
from service.store.cancel import cancel
from service.store.models import Job
from service.store.submit import Submission
from tests.eventually import eventually
from tests.factories import submit
from tests.pipeline import Pipeline, chat
from tests.simulator import Simulator


@pytest.fixture
def running(pipeline: Pipeline) -> Pipeline:
    """A pipeline with a worker and a scheduler, and shards of ten requests."""
    pipeline.worker()
    pipeline.scheduler()
    return pipeline


OPERATIONS = ("create_file", "put", "preprocess", "retrieve", "content")


def ids(count: int) -> list[str]:
    return [f"r{number:04}" for number in range(count)]


def assert_complete(pipeline: Pipeline, job: Job, custom_ids: list[str]) -> None:
    """Exactly one result line for each request, in input order, and the counters agree."""
    lines = pipeline.results(job.id)
    assert [line["custom_id"] for line in lines] == custom_ids
    dead = [line for line in lines if "error" in line]
    assert job.total == len(custom_ids)
    assert (job.succeeded, job.failed, job.pending) == (len(lines) - len(dead), len(dead), 0)
    assert len(jobs.failures(pipeline.db, job.id, after=-1, limit=10_000)) == len(dead)


def test_shards_and_failures_end_in_one_result_for_each_request(
    running: Pipeline, simulator: Simulator
) -> None:
    simulator.line_rule("error", custom_id="r0003", message="Maximum four stop sequences allowed")
    simulator.line_rule("error", custom_id="r0014", times=1, message="Internal Server Error")
    simulator.line_rule("error", custom_id="r0015", message="Request timeout", code="timeout")
    simulator.line_rule("missing", custom_id="r0021", times=2)
    simulator.line_rule("duplicate", custom_id="r0022")
    simulator.line_rule("stranger", custom_id="r0023")
    simulator.line_rule("broken", custom_id="r0024", times=1)
    simulator.line_rule("both_files", custom_id="r0025")

    job_id = running.submit(chat(*ids(30)), shard_requests=10)
    job = running.ended(job_id)

    assert job.state is JobState.COMPLETED
    assert_complete(running, job, ids(30))
    failures = jobs.failures(running.db, job_id, after=-1, limit=100)
    assert [(f.custom_id, f.code, f.attempts) for f in failures] == [
        ("r0003", "batch_client_error", 1),
        ("r0015", "timeout", 3),
    ]
    assert simulator.executed("r0003") == 1
    assert simulator.executed("r0014") == 2
    assert simulator.executed("r0015") == 3
    assert simulator.books().totals.batches_created == running.batch_count(job_id)


def test_files_that_show_late_are_bought_once(running: Pipeline, simulator: Simulator) -> None:
    simulator.switch(terminal_reads_without_files=4)

    job_id = running.submit(chat(*ids(30)), shard_requests=10)
    job = running.ended(job_id)

    assert_complete(running, job, ids(30))
    assert job.succeeded == 30
    assert {simulator.billed(custom_id) for custom_id in ids(30)} == {1}
    assert simulator.batches_created == 1


def test_odd_types_in_every_answer_cost_nothing(running: Pipeline, simulator: Simulator) -> None:
    simulator.switch(odd_types=True)
    simulator.fault("create", "lost", after_commit=True)
    simulator.line_rule("error", custom_id="r0003", message="Maximum four stop sequences allowed")

    job = running.ended(running.submit(chat(*ids(8)), shard_requests=4))

    assert_complete(running, job, ids(8))
    assert (job.succeeded, job.failed) == (7, 1)
    assert job.prompt_tokens > 0
    assert simulator.batches_created == 1


def test_models_are_batched_apart_and_come_back_together(
    running: Pipeline, simulator: Simulator
) -> None:
    spec = chat(*ids(9))
    for number, request in enumerate(requests_of(spec)):
        request["body"]["model"] = f"model-{number % 3}"

    job = running.ended(running.submit(spec))

    assert_complete(running, job, ids(9))
    assert simulator.batches_created == 3


@pytest.mark.parametrize("endpoint", ["/v1/audio/transcriptions", "/v1/audio/translations"])
def test_audio_is_batched_by_the_url_of_its_file(running: Pipeline, endpoint: str) -> None:
    body = {"model": "openai/whisper-large-v3", "file": "https://example.com/a.mp3"}
    spec: dict[str, object] = {
        "endpoint": endpoint,
        "requests": [{"custom_id": i, "method": "FILE", "body": body} for i in ids(3)],
    }

    job = running.ended(running.submit(spec))

    assert_complete(running, job, ids(3))
    assert job.succeeded == 3


@pytest.mark.parametrize("outcome", ["expire", "cancel"])
def test_what_the_provider_gave_back_is_asked_for_again_at_no_attempt(
    running: Pipeline, simulator: Simulator, outcome: str
) -> None:
    simulator.batch_rule(nth=1, outcome=outcome, share=0.5)

    job = running.ended(running.submit(chat(*ids(10), max_attempts=1)))

    assert_complete(running, job, ids(10))
    assert job.succeeded == 10
    assert simulator.batches_created == 2
    assert {simulator.billed(custom_id) for custom_id in ids(10)} == {1}


def test_a_lost_answer_to_a_create_buys_one_batch(running: Pipeline, simulator: Simulator) -> None:
    simulator.fault("create", "lost", after_commit=True)

    job = running.ended(running.submit(chat("a", "b")))

    assert job.succeeded == 2
    assert simulator.batches_created == 1


def test_a_create_that_never_arrived_is_repeated_with_a_new_upload(
    running: Pipeline, simulator: Simulator
) -> None:
    simulator.fault("create", "lost", after_commit=False)

    job = running.ended(running.submit(chat("a", "b")))

    assert job.succeeded == 2
    assert simulator.batches_created == 1
    assert len(simulator.requests("create_file")) == 2


def test_transient_faults_of_every_operation_cost_no_attempt(
    running: Pipeline, simulator: Simulator
) -> None:
    simulator.fault("content", "cut", fraction=0.5)
    simulator.fault("retrieve", "status", status=429, reset_seconds=0.1)
    # In a job each, because the pauses between the tries of one stage double.
    for operation in OPERATIONS:
        simulator.fault(operation, "status", status=503, body="html", times=2)
        simulator.fault(operation, "lost")

        job = running.ended(running.submit(chat(*ids(5), max_attempts=1)))

        assert_complete(running, job, ids(5))
        assert job.succeeded == 5
    assert simulator.batches_created == len(OPERATIONS)


def test_a_cancelled_job_keeps_what_was_bought_and_accounts_for_the_rest(
    running: Pipeline, simulator: Simulator
) -> None:
    simulator.batch_rule(nth=1, hang=True, share=0.4)
    job_id = running.submit(chat(*ids(10)))
    eventually(
        lambda: (
            [b.state for b in running.batches(job_id)] == [BatchState.CREATED]
            and running.batches(job_id)[0].provider_status == "IN_PROGRESS"
        )
    )

    cancel(running.db, job_id)
    job = running.ended(job_id)

    assert job.state is JobState.CANCELLED
    assert_complete(running, job, ids(10))
    billed = sum(simulator.billed(custom_id) for custom_id in ids(10))
    assert job.succeeded == billed
    failures = jobs.failures(running.db, job_id, after=-1, limit=100)
    assert Counter(f.code for f in failures) == Counter({"cancelled": 10 - billed})


def test_an_input_file_is_split_and_a_bad_one_is_rejected_with_its_lines(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.scheduler()
    pipeline.worker(HAULIER_INPUT_ROOTS=msgspec.json.encode([tmp_path.as_uri()]).decode())
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    lines = [msgspec.json.encode(request) for request in requests_of(chat(*ids(3)))]
    good.write_bytes(b"\n".join(lines))
    bad.write_bytes(b"\n".join([lines[0], b"no json", lines[0]]))
    spec = {"endpoint": "/v1/chat/completions"}

    done = pipeline.ended(pipeline.submit({**spec, "input": good.as_uri()}, roots=[tmp_path]))
    rejected = pipeline.ended(pipeline.submit({**spec, "input": bad.as_uri()}, roots=[tmp_path]))

    assert_complete(pipeline, done, ids(3))
    assert rejected.state is JobState.REJECTED
    assert [problem["line"] for problem in rejected.problems or []] == [2, 3]


def test_any_celery_application_submits_by_name_alone(
    running: Pipeline, redis_url: str, simulator: Simulator
) -> None:
    running.inbox()
    with Celery("producer", broker=redis_url) as producer:
        good = producer.send_task(
            "haulier.submit", kwargs={"spec": chat(*ids(3))}, queue="haulier.submit"
        )
        named = producer.send_task(
            "haulier.submit",
            kwargs={"spec": chat("x")},
            queue="haulier.submit",
            headers={"haulier-producer": "billing"},
        )
        bad = producer.send_task(
            "haulier.submit",
            kwargs={"spec": {"endpoint": "/v1/embeddings", "requests": []}},
            queue="haulier.submit",
        )
        positional = producer.send_task("haulier.submit", args=[chat("y")], queue="haulier.submit")

    job = running.ended(UUID(good.id))
    assert_complete(running, job, ids(3))
    assert running.ended(UUID(named.id)).producer == "billing"
    assert running.ended(UUID(bad.id)).state is JobState.REJECTED
    assert "/v1/embeddings" in (running.job(UUID(bad.id)).error or "")
    assert running.ended(UUID(positional.id)).state is JobState.COMPLETED
    assert simulator.batches_created <= 3


def test_jobs_that_share_a_page_run_each_for_itself(
    running: Pipeline, simulator: Simulator
) -> None:
    again, dead = 'Say b0001"', 'Say c0002"'
    simulator.line_rule("error", contains=again, times=1, message="Internal Server Error")
    simulator.line_rule("error", contains=dead, message="Maximum four stop sequences allowed")
    names = {uuid4(): [f"{letter}{number:04}" for number in range(4)] for letter in "abcd"}
    specs = {
        job_id: read_spec(msgspec.json.encode(chat(*found)), Permissions())
        for job_id, found in names.items()
    }
    taken = take_in_together(list(specs.items()), running.blobs, Settings())

    submit(
        running.db,
        [
            Submission(id=job_id, producer="default", spec=specs[job_id], taken=one)
            for job_id, one in zip(specs, taken, strict=True)
            if not isinstance(one, BadInput)
        ],
    )

    for job_id, found in names.items():
        assert_complete(running, running.ended(job_id), found)
    done = [running.job(job_id) for job_id in names]
    assert [job.failed for job in done] == [0, 0, 1, 0]
    assert len({job.bundle_blob for job in done}) == 1
    # All in one batch, where their requests have other names, and what failed once in another,
    # under the same name.
    assert [running.batch_count(job_id) for job_id in names] == [1, 2, 1, 1]
    assert simulator.batches_created == 2
    assert simulator.executed(shared_ids(list(names)[1], [1])[0]) == 2


def test_no_line_of_any_log_holds_a_secret_or_a_payload(
    pipeline: Pipeline, simulator: Simulator, environment: dict[str, str]
) -> None:
    key, secret = f"sk-{uuid4().hex}", f"payload-{uuid4().hex}"
    pipeline.use_key(key)
    pipeline.inbox(HAULIER_LOG_LEVEL="DEBUG")
    pipeline.scheduler(HAULIER_LOG_LEVEL="DEBUG")
    pipeline.worker(HAULIER_LOG_LEVEL="DEBUG")
    simulator.fault("create", "status", status=500, body="string", message=f"echo {key}")
    simulator.fault("retrieve", "lost")
    spec = chat("a")
    requests_of(spec)[0]["body"]["messages"][0]["content"] = secret

    pipeline.ended(pipeline.submit(spec))

    logs = [log.read_text() for log in pipeline.logs()]
    assert sum(map(len, logs)) > 1000
    password = environment["DATABASE_URL"].split("@", maxsplit=1)[0].rsplit(":", 1)[1]
    for text in (key, secret, password, environment["HAULIER_ADMIN_TOKEN"]):
        assert not any(text in log for log in logs)


def test_no_row_and_no_result_holds_a_key_that_an_error_repeats(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    key = f"sk-{uuid4().hex}"
    pipeline.use_key(key)
    pipeline.scheduler()
    pipeline.worker()
    simulator.fault("create", "status", status=400, body="string", message=f"no header {key}")

    job_id = pipeline.submit(chat("a"))

    assert pipeline.ended(job_id).failed == 1
    (failure,) = jobs.failures(pipeline.db, job_id, after=-1, limit=10)
    (batch,) = pipeline.batches(job_id)
    for text in (failure.message, batch.last_error, str(pipeline.results(job_id))):
        assert "no header [hidden]" in str(text)


def test_every_line_of_a_workers_log_is_json_and_says_what_it_is_about(running: Pipeline) -> None:
    job_id = running.submit(chat("a"))
    running.ended(job_id)

    lines = [
        msgspec.json.decode(line) for log in running.logs() for line in log.read_text().splitlines()
    ]

    advanced = [line for line in lines if line["event"] == "advanced"]
    assert {line["batch"] for line in advanced} == {str(b.id) for b in running.batches(job_id)}
    assert {line["stage"] for line in advanced} == {"upload", "create", "poll"}
    for line in advanced:
        assert {"batch", "account", "task_id", "timestamp", "level"} <= set(line)
    assert any(line["logger"].startswith("celery") for line in lines)


def requests_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spec["requests"]
    return found


def test_bad_lines_are_found_by_halving_and_the_others_run(
    running: Pipeline, simulator: Simulator
) -> None:
    simulator.line_rule("poison", custom_id="r0002", message="Invalid JSON format - line {line}")
    simulator.line_rule("poison", custom_id="r0007", message="Invalid JSON format - line {line}")

    job_id = running.submit(chat(*ids(8)))
    job = running.ended(job_id)

    assert_complete(running, job, ids(8))
    failures = jobs.failures(running.db, job_id, after=-1, limit=100)
    assert [(f.custom_id, f.code) for f in failures] == [
        ("r0002", "batch_failed"),
        ("r0007", "batch_failed"),
    ]
    assert all("Invalid JSON" in failure.message for failure in failures)


def test_a_batch_that_can_never_run_is_not_halved(running: Pipeline, simulator: Simulator) -> None:
    message = "Invalid model ID: Unable to access non-serverless model X"
    simulator.batch_rule(outcome="fail", message=message)

    job = running.ended(running.submit(chat(*ids(4))))

    assert_complete(running, job, ids(4))
    assert job.failed == 4
    assert simulator.batches_created == 1


def test_a_failure_of_unknown_reason_ends_when_all_pieces_fail_alike(
    running: Pipeline, simulator: Simulator
) -> None:
    simulator.batch_rule(outcome="fail", message="Unexpected condition 17")

    job = running.ended(running.submit(chat(*ids(8))))

    assert_complete(running, job, ids(8))
    assert job.failed == 8
    # Once, once more, and eight pieces.
    assert simulator.batches_created == 10


def test_a_message_with_an_eta_is_worked_on_from_then_on(running: Pipeline, redis_url: str) -> None:
    running.inbox()
    eta = engine.clock(running.db) + timedelta(seconds=4)
    queue = "haulier.submit"
    with Celery("producer", broker=redis_url) as producer:
        sent = producer.send_task(queue, kwargs={"spec": chat("a")}, queue=queue, eta=eta)
    job_id = UUID(sent.id)
    eventually(lambda: jobs.job(running.db, job_id, None))
    assert running.ended(job_id).succeeded == 1
    (batch,) = running.batches(job_id)
    assert batch.created_at >= eta
