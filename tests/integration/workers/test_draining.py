"""Draining: a process finishes what it has, takes nothing new, and says when that is so."""

from datetime import timedelta

import pytest
from sqlalchemy import func, update

from service.rules.states import JobState
from service.store import heartbeats, process_verbs
from service.store.models import Heartbeat
from tests.eventually import eventually
from tests.pipeline import Pipeline, chat
from tests.simulator import Simulator


def row(pipeline: Pipeline, kind: str) -> Heartbeat | None:
    found = [one for one in heartbeats.heartbeats(pipeline.db) if one.kind == kind]
    return found[0] if found else None


def drain(pipeline: Pipeline, kind: str) -> str:
    """Drain the only process of a kind. Returns its id."""
    process = eventually(lambda: row(pipeline, kind))
    assert process is not None
    assert process_verbs.drain(pipeline.db, process.id, by=None) is not None
    return process.id


def is_drained(pipeline: Pipeline, kind: str) -> bool:
    process = row(pipeline, kind)
    return process is not None and process.drained_at is not None


def resumed(pipeline: Pipeline, kind: str, process_id: str) -> None:
    process_verbs.resume(pipeline.db, process_id, by=None)
    process = row(pipeline, kind)
    assert process is not None
    assert process.drained_at is None


@pytest.mark.slow  # heartbeats come every 5 seconds
def test_a_worker_ends_what_it_has_and_takes_nothing_new(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    # Calls wait as long as the lease allows: longer than it takes to learn of the drain.
    patient = {"HAULIER_LEASE_SECONDS": "60"}
    worker = pipeline.worker(**patient)
    pipeline.scheduler(**patient)
    eventually(lambda: row(pipeline, "worker"))
    simulator.hold("create", after_commit=True)
    first = pipeline.submit(chat("a"))
    simulator.wait_held("create", timeout=60)
    process_id = drain(pipeline, "worker")
    eventually(lambda: "process_draining" in worker.output)
    assert not is_drained(pipeline, "worker")
    assert heartbeats.slots(pipeline.db, "haulier.transfer", within=timedelta(minutes=1)) == 0

    simulator.release()
    eventually(lambda: is_drained(pipeline, "worker"))
    # What it had is stored, and the next step of it waits for another worker.
    assert [batch.state for batch in pipeline.batches(first)] == ["created"]
    second = pipeline.submit(chat("b"))
    other = pipeline.worker(**patient)
    pipeline.ended(first)
    pipeline.ended(second)
    assert str(second) not in worker.output
    assert str(pipeline.batches(second)[0].id) not in worker.output

    other.stop()
    resumed(pipeline, "worker", process_id)
    third = pipeline.submit(chat("c"))
    assert pipeline.ended(third).state is JobState.COMPLETED
    worker.stop()
    eventually(lambda: row(pipeline, "worker") is None)


def test_a_scheduler_an_inbox_and_a_notifier_rest_until_they_are_resumed(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    kinds = ("scheduler", "inbox", "notifier")
    pipeline.scheduler(), pipeline.inbox(), pipeline.notifier()
    names = {kind: drain(pipeline, kind) for kind in kinds}
    eventually(lambda: all(is_drained(pipeline, kind) for kind in kinds), 30)

    pipeline.worker()
    job_id = pipeline.submit(chat("a"))
    assert pipeline.batches(job_id) == []
    for kind in kinds:
        resumed(pipeline, kind, names[kind])
    assert pipeline.ended(job_id).state is JobState.COMPLETED


def test_a_drained_process_that_was_killed_is_forgotten_soon_and_no_other(
    pipeline: Pipeline,
) -> None:
    def beat(name: str) -> None:
        heartbeats.beat(pipeline.db, name=name, kind="worker", host="h", pid=1, queues=[], slots=1)

    beat("lost")
    beat("drained")
    process_verbs.drain(pipeline.db, "drained", by=None)
    with pipeline.db.begin() as session:
        session.execute(update(Heartbeat).values(seen_at=func.now() - timedelta(minutes=2)))
    beat("alive")
    assert [one.id for one in heartbeats.heartbeats(pipeline.db)] == ["alive", "lost"]


def test_a_row_that_was_forgotten_comes_back_as_drained_as_it_was(pipeline: Pipeline) -> None:
    named = {"name": "worker", "kind": "worker", "host": "h", "pid": 1, "queues": [], "slots": 1}
    assert heartbeats.beat(pipeline.db, **named) is None  # type: ignore[arg-type]
    process_verbs.drain(pipeline.db, "worker", by=None)
    since = heartbeats.beat(pipeline.db, **named)  # type: ignore[arg-type]
    heartbeats.gone(pipeline.db, "worker")
    again = heartbeats.beat(pipeline.db, **named, draining_since=since)  # type: ignore[arg-type]
    assert again == since
