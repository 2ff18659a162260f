"""A real process is killed at every place where the world has changed and Postgres has not.

The process that reaches the point dies of SIGKILL there. A clean one takes its place, and at the
end every request has one result and nothing was bought twice.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import msgspec
import psycopg
import pytest
import redis
from _pytest.mark import ParameterSet
from celery import Celery

from service.rules.crashpoints import CrashPoint
from service.rules.states import JobState
from service.store import expiry, jobs, leftovers
from service.store.cancel import cancel
from service.store.models import Job
from service.store.settle import SLICE
from service.upkeep.files import discard
from tests.api import client, jsonl, started_url
from tests.eventually import eventually
from tests.faults import crash_point_list
from tests.faults.conservation import assert_all_conserved, assert_conserved, ids
from tests.pipeline import Pipeline, chat
from tests.processes import Running, gone
from tests.retention import FORGETFUL, files_at
from tests.servers import children
from tests.simulator import Simulator
from workers.submit_queue import DEAD, INBOXES

REQUESTS = ids(6)
SECOND = 'Say r0002"'
"""What a request says, whatever it is called in its batch."""


# --- what makes a point reachable ----------------------------------------------------------------


def nothing(_simulator: Simulator) -> None:
    """A job that goes well comes by."""


def a_create_that_never_arrives(simulator: Simulator) -> None:
    simulator.fault("create", "lost")


def a_create_whose_answer_is_lost(simulator: Simulator) -> None:
    simulator.fault("create", "lost", after_commit=True)


def a_line_worth_another_try(simulator: Simulator) -> None:
    simulator.line_rule("error", contains=SECOND, times=1, message="Internal Server Error")


def a_line_that_fails_for_good_once(simulator: Simulator) -> None:
    simulator.line_rule("error", contains=SECOND, times=1, message="Invalid model specified")


def a_batch_that_hangs(simulator: Simulator) -> None:
    simulator.batch_rule(hang=True, share=0.5)


# --- the way of a job up to the death and past it ------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """What a way works with."""

    pipeline: Pipeline
    redis_url: str
    directory: Path
    point: CrashPoint

    @property
    def crash(self) -> dict[str, str]:
        return {"HAULIER_CRASH_AT": self.point}


def by_worker(stage: Stage) -> Job:
    """A job that is accepted already."""
    return _past_dead_worker(stage, lambda: stage.pipeline.submit(chat(*REQUESTS)))


def by_worker_with_input(stage: Stage) -> Job:
    """A job whose requests stand in a file."""
    path = stage.directory / "requests.jsonl"
    path.write_bytes(b"\n".join(map(msgspec.json.encode, chat(*REQUESTS)["requests"])))
    spec = {"endpoint": "/v1/chat/completions", "input": path.as_uri()}
    return _past_dead_worker(stage, lambda: stage.pipeline.submit(spec, roots=[stage.directory]))


def by_worker_enqueued(stage: Stage, owners_url: str) -> Job:
    """A job that came in a transaction of its producer."""

    def enqueue() -> UUID:
        with psycopg.connect(owners_url) as connection:
            content = msgspec.json.encode(chat(*REQUESTS)).decode()
            row = connection.execute("SELECT haulier.enqueue(%s::jsonb)", [content]).fetchone()
            assert row is not None
            job_id: UUID = row[0]
            return job_id

    return _past_dead_worker(stage, enqueue)


def by_worker_cancelled_at_once(stage: Stage) -> Job:
    """A job that is cancelled before anything was sent."""

    def submit() -> UUID:
        job_id = stage.pipeline.submit(chat(*REQUESTS))
        cancel(stage.pipeline.db, job_id)
        return job_id

    return _past_dead_worker(stage, submit)


def by_worker_cancelled_under_way(stage: Stage) -> Job:
    """A job that is cancelled while Together works on it."""
    pipeline = stage.pipeline

    def submit() -> UUID:
        job_id = pipeline.submit(chat(*REQUESTS))
        eventually(lambda: [b.provider_status for b in pipeline.batches(job_id)] == ["IN_PROGRESS"])
        cancel(pipeline.db, job_id)
        return job_id

    return _past_dead_worker(stage, submit)


def _past_dead_worker(
    stage: Stage, submit: Callable[[], UUID], *, others: Sequence[UUID] = ()
) -> Job:
    """Let a worker die over a job, or over one of those that share its batch."""
    pipeline, root = stage.pipeline, msgspec.json.encode([stage.directory.as_uri()]).decode()
    pipeline.scheduler()
    victim = pipeline.worker(HAULIER_INPUT_ROOTS=root, **stage.crash)
    eventually(lambda: " ready." in victim.output, 60)
    slots = children(victim.pid)
    job_id = submit()
    eventually(lambda: any(map(gone, slots)), 60)
    # Celery forks another child, which would die as well.
    victim.kill()
    victim.stop()
    if stage.point is not P.SETTLE_SLICED:  # the last slice alone does not come past the point
        assert any(pipeline.job(one).finished_at is None for one in (job_id, *others))
    pipeline.worker(HAULIER_INPUT_ROOTS=root)
    return pipeline.ended(job_id)


def by_scheduler(stage: Stage) -> Job:
    stage.pipeline.worker()
    victim = stage.pipeline.scheduler(**stage.crash)
    job_id = stage.pipeline.submit(chat(*REQUESTS))
    died(victim)
    (batch,) = stage.pipeline.batches(job_id)
    assert batch.dispatched_at is not None
    stage.pipeline.scheduler()
    return stage.pipeline.ended(job_id)


def by_queue(stage: Stage) -> Job:
    """Submitted as a message, which Redis may hand out again."""
    pipeline, job_id = stage.pipeline, uuid4()
    pipeline.worker()
    pipeline.scheduler()
    victim = pipeline.inbox(**stage.crash)
    _send(stage, job_id)
    died(victim)
    with redis.Redis.from_url(stage.redis_url) as broker:
        # As if it had been dead for a while: what it held is put back.
        for name in broker.zrange(INBOXES, 0, -1):
            broker.zincrby(INBOXES, -DEAD - 1, name)
    pipeline.inbox()
    job = pipeline.ended(job_id)
    _send(stage, job_id)
    eventually(lambda: any("submission_known" in log.read_text() for log in pipeline.logs()))
    return job


def _send(stage: Stage, job_id: UUID) -> None:
    with Celery("producer", broker=stage.redis_url) as producer:
        producer.send_task(
            "haulier.submit",
            kwargs={"spec": chat(*REQUESTS)},
            queue="haulier.submit",
            task_id=str(job_id),
        )


def by_http(stage: Stage) -> Job:
    """Submitted over HTTP with a key; whoever got no answer asks again."""
    stage.pipeline.worker()
    stage.pipeline.scheduler()
    answer = _asked_twice(stage, "/v1/jobs", chat(*REQUESTS), {"Idempotency-Key": "nightly"})
    assert answer.status_code == (200 if stage.point is CrashPoint.ACCEPT_STORED else 201)
    return stage.pipeline.ended(UUID(answer.json()["id"]))


def by_retry(stage: Stage) -> Job:
    """Dead letters of a finished job that are to run again."""
    pipeline = stage.pipeline
    pipeline.worker()
    pipeline.scheduler()
    job_id = pipeline.submit(chat(*REQUESTS))
    assert pipeline.ended(job_id).failed == 1
    answer = _asked_twice(stage, f"/v1/jobs/{job_id}/retry", {}, {})
    assert answer.status_code == 202
    return pipeline.ended(job_id)


def _asked_twice(
    stage: Stage, path: str, content: dict[str, Any], headers: dict[str, str]
) -> httpx.Response:
    """The answer of a second API to a question that the first one died of."""
    processes = stage.pipeline.processes
    victim = processes.haulier("api", "--port", "0", **stage.crash)
    with client(started_url(victim)) as http, pytest.raises(httpx.TransportError):
        http.post(path, json=content, headers=headers)
    died(victim)
    with client(started_url(processes.haulier("api", "--port", "0"))) as http:
        return http.post(path, json=content, headers=headers)


def died(process: Running) -> None:
    """Wait until the process was killed."""
    assert process.wait(60) == -9


# --- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """How a point is reached, and what should stand in the books at the end."""

    way: Callable[[Stage], Job] = by_worker
    faults: Callable[[Simulator], None] = nothing
    batches: int = 1
    state: JobState = JobState.COMPLETED


P = CrashPoint

SCENARIOS = {
    P.ACCEPT_COPIED: Scenario(way=by_http),
    P.ACCEPT_STORED: Scenario(way=by_http),
    P.INBOX_TAKEN: Scenario(way=by_queue),
    P.INBOX_STORED: Scenario(way=by_queue),
    P.SCHEDULER_STAMPED: Scenario(way=by_scheduler),
    P.WORKER_CLAIMED: Scenario(),
    P.WORKER_APPLIED: Scenario(),
    P.SPLIT_COPIED: Scenario(way=by_worker_with_input),
    P.UPLOAD_FORGOTTEN: Scenario(faults=a_create_that_never_arrives),
    P.UPLOAD_SENT: Scenario(),
    P.CREATE_SENT: Scenario(),
    P.CREATE_FOUND: Scenario(faults=a_create_whose_answer_is_lost),
    P.POLL_CANCELLED: Scenario(
        way=by_worker_cancelled_under_way, faults=a_batch_that_hangs, state=JobState.CANCELLED
    ),
    P.POLL_ENDED: Scenario(),
    P.FETCH_DOWNLOADED: Scenario(),
    P.FETCH_WRITTEN: Scenario(),
    P.FETCH_CARRIED: Scenario(faults=a_line_worth_another_try, batches=2),
    P.BURY_WRITTEN: Scenario(way=by_worker_cancelled_at_once, batches=0, state=JobState.CANCELLED),
    P.ASSEMBLE_WRITTEN: Scenario(faults=a_line_worth_another_try, batches=2),
    P.RETRY_WRITTEN: Scenario(way=by_retry, faults=a_line_that_fails_for_good_once, batches=2),
}


ALIKE = {
    *(P.ACCEPT_COPIED, P.WORKER_CLAIMED, P.UPLOAD_FORGOTTEN, P.UPLOAD_SENT, P.POLL_ENDED),
    *(P.FETCH_DOWNLOADED, P.FETCH_WRITTEN, P.BURY_WRITTEN, P.ASSEMBLE_WRITTEN, P.PRUNE_FORGOTTEN),
}
"""Points whose way back is another point's too; `make test` leaves them to CI."""
ALIKE_MARKS = (pytest.mark.slow, pytest.mark.in_ci)

FORGETTING = (P.PRUNE_FORGOTTEN, P.DISCARD_DELETED)
"""Reached when there is nothing of the job any more to hold against the books."""
UPLOADING = (P.FILE_WRITTEN, P.FILE_STORED, P.FILE_DISCARDED)
"""Reached over a file, of which no job was made yet."""


def cases(points: Iterable[CrashPoint]) -> list[ParameterSet]:
    """The points as parameters, those that are like another marked as slow."""
    return [pytest.param(p, marks=ALIKE_MARKS if p in ALIKE else ()) for p in points]


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    return {**environment, "HAULIER_LEASE_SECONDS": "2", "HAULIER_CREATE_GRACE_SECONDS": "0.5"}


@pytest.mark.parametrize("point", cases(SCENARIOS))
def test_a_process_killed_at_a_crash_point_loses_nothing_and_buys_nothing_twice(
    pipeline: Pipeline, simulator: Simulator, redis_url: str, tmp_path: Path, point: CrashPoint
) -> None:
    scenario = SCENARIOS[point]
    scenario.faults(simulator)

    job = scenario.way(Stage(pipeline, redis_url, tmp_path, point))

    assert_conserved(
        pipeline, simulator, job, REQUESTS, batches=scenario.batches, state=scenario.state
    )
    everyone = jobs.jobs(pipeline.db, producer=None, limit=10)
    assert [found.id for found in everyone] == [job.id]


# --- several jobs in one batch --------------------------------------------------------------------


TOGETHER = {
    P.WORKER_CLAIMED: Scenario(),
    P.WORKER_APPLIED: Scenario(),
    P.UPLOAD_SENT: Scenario(),
    P.CREATE_SENT: Scenario(),
    P.CREATE_FOUND: Scenario(faults=a_create_whose_answer_is_lost),
    P.POLL_ENDED: Scenario(),
    P.FETCH_DOWNLOADED: Scenario(),
    P.FETCH_WRITTEN: Scenario(),
    P.FETCH_CARRIED: Scenario(faults=a_line_worth_another_try, batches=2),
    P.ASSEMBLE_WRITTEN: Scenario(faults=a_line_worth_another_try, batches=2),
    P.SETTLE_SLICED: Scenario(),
}


@pytest.mark.parametrize("point", cases(TOGETHER))
def test_a_worker_killed_over_a_shared_batch_loses_nothing_of_any_job(
    pipeline: Pipeline, simulator: Simulator, redis_url: str, tmp_path: Path, point: CrashPoint
) -> None:
    scenario = TOGETHER[point]
    scenario.faults(simulator)
    sizes = [1] * (SLICE + 20) if point is P.SETTLE_SLICED else [6, 3, 4]
    specs = [chat(*ids(size)) for size in sizes]
    submitted: list[UUID] = []

    def submit() -> UUID:
        submitted.extend(pipeline.submit_together(*specs))
        # One that is not settled with the first slice.
        parts = {part.id: job_id for job_id in submitted for part, _ in pipeline.parts(job_id)}
        return parts[max(parts)]

    _past_dead_worker(Stage(pipeline, redis_url, tmp_path, point), submit, others=submitted)

    assert_all_conserved(pipeline, simulator, submitted, sizes, batches=scenario.batches)


@pytest.mark.slow
@pytest.mark.in_ci
def test_a_worker_killed_while_it_splits_what_was_enqueued_loses_nothing(
    pipeline: Pipeline, simulator: Simulator, redis_url: str, tmp_path: Path, database_url: str
) -> None:
    job = by_worker_enqueued(Stage(pipeline, redis_url, tmp_path, P.SPLIT_COPIED), database_url)

    assert_conserved(pipeline, simulator, job, REQUESTS, batches=1)


@pytest.mark.parametrize("point", cases(FORGETTING))
def test_a_worker_killed_while_it_forgets_a_job_leaves_nothing_behind(
    pipeline: Pipeline, simulator: Simulator, tmp_path: Path, point: CrashPoint
) -> None:
    victim = pipeline.worker(**FORGETFUL, HAULIER_CRASH_AT=point)
    scheduler = pipeline.scheduler()
    job = pipeline.ended(pipeline.submit(chat(*REQUESTS)))
    assert files_at(simulator)

    scheduler.kill()
    pipeline.scheduler(**FORGETFUL)
    eventually(lambda: "signal 9 (SIGKILL)" in victim.output, 60)
    victim.kill()
    victim.stop()
    assert jobs.job(pipeline.db, job.id, None) is None
    pipeline.worker(**FORGETFUL)

    eventually(lambda: not files_at(simulator) and not any(tmp_path.glob("blobs/jobs/*")), 60)
    eventually(lambda: not leftovers.owners(pipeline.db, ["default"]))


@pytest.mark.parametrize("point", UPLOADING)
def test_an_api_killed_over_an_uploaded_file_keeps_it_whole_or_not_at_all(
    pipeline: Pipeline, tmp_path: Path, point: CrashPoint
) -> None:
    fields = {"purpose": "batch-api", "file_name": "a.jsonl", "file_type": "jsonl"}
    content = jsonl("a", "b")
    victim = pipeline.processes.haulier("api", "--port", "0", HAULIER_CRASH_AT=point)
    with client(started_url(victim)) as http:
        announced = http.post("/together/v1/files", data=fields)
        url = urlsplit(announced.headers["location"])
        place = f"{url.path}?{url.query}"
        file = f"/together/v1/files/{announced.headers['x-together-file-id']}"
        if point is P.FILE_DISCARDED:
            assert http.put(place, content=content).status_code == 200
        with pytest.raises(httpx.TransportError):
            http.delete(file) if point is P.FILE_DISCARDED else http.put(place, content=content)
    died(victim)
    with client(started_url(pipeline.processes.haulier("api", "--port", "0"))) as http:
        if point is not P.FILE_DISCARDED:
            # Whoever got no answer sends it again.
            assert http.put(place, content=content).status_code == 200
            assert http.get(f"{file}/content").content == content
            assert http.delete(file).is_success
        assert http.get(file).status_code == 404
    discard(pipeline.db, pipeline.blobs)
    assert expiry.discardable(pipeline.db, limit=9) == []
    blobs = tmp_path / "blobs"
    left = [str(path.relative_to(blobs)) for path in blobs.glob("files/*/*") if path.is_file()]
    # What no row knows is swept after a day.
    assert len(left) == (1 if point is P.FILE_WRITTEN else 0)
    assert expiry.named(pipeline.db, left) == set()


def test_the_table_has_every_crash_point() -> None:
    # What becomes of a notice is in tests/integration/test_notifier.py.
    known = {*SCENARIOS, *TOGETHER, *FORGETTING, *UPLOADING, CrashPoint.NOTICE_SENT}
    assert known == set(CrashPoint)


def test_the_document_lists_every_crash_point() -> None:
    assert crash_point_list.from_document() == crash_point_list.from_code(), (
        "write the list anew: python -m tests.faults.crash_point_list"
    )
