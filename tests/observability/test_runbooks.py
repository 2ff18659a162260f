"""What each runbook is about, caused on a running service, and ended as its page says.

The alerts' own expressions are asked of a real Prometheus. Only their times are shorter.
"""

import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis

from service.api import metrics
from service.rules.states import BatchState
from tests.api import Api
from tests.eventually import eventually
from tests.observability.test_rules import alerts
from tests.pipeline import Pipeline
from tests.processes import Running
from tests.prometheus import Prometheus, needs_prometheus, scraping
from tests.simulator import KEY, Simulator

pytestmark = needs_prometheus

RULES = {alert["alert"]: alert["expr"] for alert in alerts()}


def expression(alert: str, **less: float) -> str:
    """An alert's, with windows of seconds; `than` is another bound for what it compares."""
    shorter = re.sub(r"\[\d+[mh]\]", "[12s]", RULES[alert])
    return re.sub(r"([<>]) [\d.e+]+$", rf"\1 {less['than']}", shorter) if less else shorter


@dataclass
class World:
    """A whole service, and a Prometheus that scrapes it."""

    pipeline: Pipeline
    simulator: Simulator
    api: Api
    prometheus: Prometheus
    owner: str
    """The URL of the database, for the owner of its tables."""
    worker: Running
    scheduler: Running

    def alerted(self, alert: str, **less: float) -> None:
        """Wait until the alert's expression is true."""
        eventually(lambda: self.prometheus.value(expression(alert, **less)), 60)

    def ended(self, alert: str, **less: float) -> None:
        """Wait until it is not any more, and the metrics are still there."""

        def over() -> bool:
            there = self.prometheus.value("haulier_build_info")
            return bool(there) and not self.prometheus.value(expression(alert, **less))

        eventually(over, 60)

    def sql(self, statement: str) -> None:
        with psycopg.connect(self.owner, autocommit=True) as connection:
            connection.execute(statement)


@pytest.fixture
def prometheus(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prometheus]:
    monkeypatch.setattr(metrics, "FRESH", 0.3)
    with scraping(api.url.removeprefix("http://"), tmp_path / "prometheus") as running:
        yield running


@pytest.fixture
def world(
    pipeline: Pipeline, simulator: Simulator, api: Api, prometheus: Prometheus, database_url: str
) -> World:
    worker, scheduler = pipeline.worker(), pipeline.scheduler()
    eventually(lambda: prometheus.value('haulier_processes{kind="worker"} == 1'))
    return World(pipeline, simulator, api, prometheus, database_url, worker, scheduler)


def account_blocked(world: World) -> None:
    world.simulator.keys({KEY: 402})
    job = world.api.submit("a")
    world.alerted("HaulierAccountBlocked")
    world.simulator.keys({})  # topped up: the probe finds out by itself
    world.ended("HaulierAccountBlocked")
    assert world.pipeline.ended(job).succeeded == 1


def parked(world: World) -> None:
    world.simulator.batch_rule(hang_seconds=2.0)
    job = world.api.submit("b")
    eventually(lambda: [b.state for b in world.pipeline.batches(job)] == [BatchState.CREATED])
    world.sql("UPDATE haulier.batches SET parked_at = now() WHERE finished_at IS NULL")
    world.alerted("HaulierParked")
    assert world.api.http.post(f"/v1/jobs/{job}/retry").is_success
    world.ended("HaulierParked")
    world.simulator.scenario()
    assert world.pipeline.ended(job).succeeded == 1


def messages_unread(world: World) -> None:
    inbox = world.pipeline.inbox()
    with redis.Redis.from_url(world.pipeline.redis_url) as broker:
        broker.lpush("team:haulier.submit", "{}")
        world.alerted("HaulierMessagesUnread")
        broker.delete("team:haulier.submit")
        world.ended("HaulierMessagesUnread")
    inbox.stop()


def many_dead(world: World) -> None:
    world.simulator.line_rule(
        "error", contains="Say dead", message="not a word of this", status=400
    )
    job = world.api.submit("dead1", "dead2", max_attempts=1)
    world.pipeline.ended(job)
    world.alerted("HaulierManyDead")
    world.simulator.scenario()
    world.ended("HaulierManyDead")


def together_failing(world: World) -> None:
    world.simulator.fault("create_file", "status", status=503, times=None)
    job = world.api.submit("c")
    world.alerted("HaulierTogetherFailing")
    world.simulator.clear_faults()
    world.ended("HaulierTogetherFailing")
    assert world.pipeline.ended(job).succeeded == 1


def scratch_full(world: World) -> None:
    ((_, free),) = world.prometheus.value("haulier_scratch_free_bytes")
    world.alerted("HaulierScratchFull", than=free * 2)
    world.ended("HaulierScratchFull", than=1)


def process_missing(world: World) -> None:
    world.scheduler.stop()
    world.alerted("HaulierProcessMissing")
    world.scheduler = world.pipeline.scheduler()
    world.ended("HaulierProcessMissing")


def overdue(world: World) -> None:
    os.kill(world.worker.pid, signal.SIGSTOP)
    job = world.api.submit("d")
    world.alerted("HaulierOverdue", than=2)
    os.kill(world.worker.pid, signal.SIGCONT)
    world.ended("HaulierOverdue", than=2)
    assert world.pipeline.ended(job).succeeded == 1


def waiting(world: World) -> None:
    world.sql("UPDATE haulier.lanes SET paused_at = now()")
    job = world.api.submit("e")
    world.alerted("HaulierWaiting", than=1)
    world.sql("UPDATE haulier.lanes SET paused_at = NULL")
    world.ended("HaulierWaiting", than=1)
    assert world.pipeline.ended(job).succeeded == 1


def slow_batch(world: World) -> None:
    world.simulator.batch_rule(hang=True)
    job = world.api.submit("f")
    world.alerted("HaulierSlowBatch", than=2)
    world.simulator.scenario()
    assert world.api.http.post(f"/v1/jobs/{job}/cancel").is_success
    world.ended("HaulierSlowBatch", than=2)
    world.pipeline.ended(job)


FIRST: list[Callable[[World], None]] = [account_blocked, parked, together_failing]
OTHERS: list[Callable[[World], None]] = [
    messages_unread,
    many_dead,
    scratch_full,
    process_missing,
    overdue,
    waiting,
    slow_batch,
]


def test_what_wakes_people_is_seen_and_seen_to_end(world: World) -> None:
    for scenario in FIRST:
        scenario(world)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", OTHERS, ids=lambda scenario: scenario.__name__)
def test_every_other_alert_too(world: World, scenario: Callable[[World], None]) -> None:
    world.pipeline.ended(world.api.submit("before"))
    scenario(world)
