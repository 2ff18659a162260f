"""A message is only a nudge: whatever it says, Postgres says what is to be done."""

import os
import time
from pathlib import Path
from uuid import uuid4

from celery import Celery

from service.rules.states import BatchState
from tests.eventually import eventually
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
