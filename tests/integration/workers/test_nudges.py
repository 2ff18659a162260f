"""A message is only a nudge: whatever it says, Postgres says what is to be done."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis
from celery import Celery

from service.rules.states import BatchState
from service.store.submit import Submission
from tests.eventually import eventually
from tests.factories import Harness, spec, submit
from tests.integration.api.test_walls import everything
from tests.pipeline import Pipeline, chat
from tests.simulator import Simulator

TRANSFER, CONTROL = "haulier.transfer", "haulier.control"


def test_whoever_can_write_to_the_broker_cannot_make_workers_do_what_is_not_due(
    pipeline: Pipeline, simulator: Simulator, redis_url: str
) -> None:
    simulator.batch_rule(hang_seconds=3.0)
    worker = pipeline.worker()
    scheduler = pipeline.scheduler(HAULIER_POLL_SECONDS="1")
    job_id = pipeline.submit(chat("a", "b"))
    (batch,) = eventually(
        lambda: [b for b in pipeline.batches(job_id) if b.state is BatchState.CREATED]
    )
    root = Path(pipeline.blobs.url.removeprefix("file://"))
    unnamed = root / "jobs" / str(uuid4()) / str(uuid4()) / "input-0.jsonl"
    unnamed.parent.mkdir(parents=True)
    unnamed.write_bytes(b"x")
    os.utime(unnamed, (time.time() - 10 * 86_400,) * 2)

    with Celery("stranger", broker=redis_url) as stranger:

        def send(name: str, *arguments: object, queue: str = CONTROL) -> None:
            stranger.send_task(f"haulier.{name}", arguments, queue=queue)

        send("sweep", "default", [batch.input_file_id])
        send("sweep", "default")
        send("sweep", "nobody")
        send("discard", None)
        send("discard", "default")
        send("prune")
        send("sweep_blobs", queue=TRANSFER)
        for stage in ("upload", "create", "fetch"):
            send(stage, str(batch.id))
            send(stage, str(uuid4()))
        for stage in ("split", "assemble"):
            send(stage, str(job_id), queue=TRANSFER)
        send("poll", [str(batch.id)] * 3)

    job = pipeline.ended(job_id)
    assert job.succeeded == 2
    assert simulator.batches_created == 1
    assert [b.status for b in simulator.account().batches] == ["COMPLETED"]
    assert simulator.requests("cancel") == []
    assert unnamed.exists()
    assert worker.alive
    assert scheduler.alive


NO_MESSAGES = (b"no json", b"\xff\xfe", b"7", b"[]", b"{}", b'{"body": 5, "properties": {}}', b"")


def test_what_is_no_message_ends_no_worker(pipeline: Pipeline, redis_url: str) -> None:
    worker = pipeline.worker()
    with redis.Redis.from_url(redis_url) as broker:
        for queue in (TRANSFER, CONTROL):
            broker.lpush(queue, *NO_MESSAGES)
        pipeline.scheduler()
        job = pipeline.ended(pipeline.submit(chat("a")))
        assert [broker.llen(queue) for queue in (TRANSFER, CONTROL)] == [0, 0]
    assert job.succeeded == 1
    assert worker.alive
    assert worker.output.count('"message_dropped"') >= len(NO_MESSAGES)


def test_no_message_to_any_task_changes_what_is_not_due(
    pipeline: Pipeline, simulator: Simulator, database_url: str, redis_url: str
) -> None:
    harness = Harness(pipeline.db)
    pipeline.submit(chat("a", "b"))
    submit(harness.db, [Submission(id=uuid4(), producer="default", spec=spec("a"))])
    for state in (BatchState.QUEUED, BatchState.UPLOADED, BatchState.CREATED, BatchState.ENDED):
        harness.advance(harness.queued(), state)
    for table in ("jobs", "batches"):
        harness.run(f"UPDATE haulier.{table} SET not_before = now() + interval '1 day'")
    ids = [str(row) for row in harness.rows("SELECT id FROM haulier.batches")]
    ids += [str(row) for row in harness.rows("SELECT id FROM haulier.jobs")]
    assert len(ids) >= 10
    hostile: list[list[Any]] = [
        *([None], [5], ["\x00"], [{}], ["default", ["file-1"]], [["default"]]),
        *([["x", 5, None, *ids]], [[str(uuid4())] * 10_001]),
        *([name] for name in ids[::2]),
    ]
    # To the tasks that Celery brings along: more of the same.
    more: list[list[Any]] = [[{"task": "haulier.sweep"}, [["default", ["file-1"]]]], [ids]]
    worker = pipeline.worker(HAULIER_RETENTION_DAYS="30")
    names = tasks()
    assert {"haulier.poll", "haulier.discard", "celery.map"} <= set(names)
    before = everything(database_url)

    with Celery("stranger", broker=redis_url) as stranger:
        for name in names:
            for arguments in hostile if name.startswith("haulier.") else more:
                stranger.send_task(name, arguments, queue=CONTROL)
            stranger.send_task(name, kwargs={"account": "default", "x": ids}, queue=TRANSFER)
    with redis.Redis.from_url(redis_url) as broker:
        eventually(lambda: broker.llen(CONTROL) == broker.llen(TRANSFER) == 0)
    assert worker.alive
    worker.stop()  # once its tasks are done

    assert everything(database_url) == before
    assert simulator.batches_created == 0
    assert simulator.requests("cancel") == []
    assert "stage_broke" not in worker.output
    assert "DataError" not in worker.output


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_a_pickled_message_runs_nothing(pipeline: Pipeline, redis_url: str, tmp_path: Path) -> None:
    """Celery's workers refuse it; the inbox, which reads without Celery, rejects it."""
    left = tmp_path / "left"
    inbox, worker = pipeline.inbox(), pipeline.worker()

    with Celery("stranger", broker=redis_url) as stranger:
        for name, queue in (("poll", CONTROL), ("split", TRANSFER), ("submit", "haulier.submit")):
            stranger.send_task(f"haulier.{name}", [Trap(left)], queue=queue, serializer="pickle")

    eventually(lambda: worker.output.count("Received invalid task message") == 2)
    eventually(lambda: "submission_rejected" in inbox.output)
    assert worker.alive
    assert inbox.alive
    assert not left.exists()


def tasks() -> list[str]:
    """Every task that a worker knows, as another process lists them: it needs its own settings."""
    listing = "from workers.app import app; import workers.tasks; print(*app.tasks, sep='\\n')"
    nowhere = {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1/0"}
    done = subprocess.run(
        [sys.executable, "-c", listing],
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()
