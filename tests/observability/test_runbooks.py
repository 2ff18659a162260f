"""What each runbook is about, caused on a running service, and ended as its page says.

The alerts' own expressions are asked of a real Prometheus. Only their times are shorter.
"""

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import UUID

import psycopg
import pytest
import redis

from service.api import metrics
from service.rules.states import BatchState
from tests.api import Api, chat, started_url
from tests.eventually import eventually
from tests.factories import chat_request
from tests.observability.test_rules import alerts
from tests.pipeline import SCHEDULER, Pipeline
from tests.processes import Processes, Running
from tests.prometheus import Prometheus, needs_prometheus, scraping
from tests.servers import Servers
from tests.simulator import KEY, Simulator

pytestmark = needs_prometheus

MODEL = str(chat_request("a")["body"]["model"])
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
    world.alerted("HaulierFailing")
    world.simulator.clear_faults()
    world.ended("HaulierTogetherFailing")
    world.ended("HaulierFailing")
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


def lane_resting(world: World) -> None:
    world.simulator.outage("lines", message="Internal Server Error")
    jobs = [world.api.submit(*(f"{name}{n}" for n in range(30))) for name in "gh"]
    world.alerted("HaulierLaneResting")
    world.simulator.scenario()  # over; a canary finds out
    world.ended("HaulierLaneResting")
    assert [world.pipeline.ended(job).succeeded for job in jobs] == [30, 30]


def odd_answers(world: World) -> None:
    world.simulator.line_rule("stranger")
    world.pipeline.ended(world.api.submit("i"))
    world.alerted("HaulierOddAnswers")
    world.simulator.scenario()
    world.ended("HaulierOddAnswers")


def messages_set_aside(world: World) -> None:
    inbox = world.pipeline.inbox()
    with redis.Redis.from_url(world.pipeline.redis_url) as broker:
        broker.lpush("haulier.submit", "nothing that anybody can read")
        world.alerted("HaulierMessagesSetAside")
        assert broker.lrange("haulier.inbox.unreadable", 0, 9)
    world.ended("HaulierMessagesSetAside")
    inbox.stop()


def jobs_held(world: World) -> None:
    world.simulator.line_rule("error", message="unfit", status=400)
    spec = chat(*(f"k{n}" for n in range(30)), canary=10, max_attempts=1)
    job = world.api.http.post("/v1/jobs", json=spec).json()["id"]
    world.alerted("HaulierJobsHeld")
    world.simulator.scenario()
    assert world.api.http.post(f"/v1/jobs/{job}/release").is_success
    world.ended("HaulierJobsHeld")
    ended = world.pipeline.ended(UUID(job))
    assert (ended.succeeded, ended.failed) == (20, 10)


def budget_reached(world: World) -> None:
    prices = {MODEL: [{"from": "2026-01-01", "input": "1000000", "output": "1000000"}]}
    world.scheduler.stop()
    world.scheduler = world.pipeline.scheduler(HAULIER_PRICES=json.dumps(prices))
    job = world.pipeline.submit(chat("l", max_cost="0.01"))
    world.alerted("HaulierBudgetReached")
    body = {"max_cost": "999999"}
    assert world.api.http.post(f"/v1/jobs/{job}/release", json=body).is_success
    world.ended("HaulierBudgetReached")
    assert world.pipeline.ended(job).succeeded == 1


def notices_late(world: World) -> None:
    job = world.pipeline.submit(chat("m", notify=[{"task": "done", "queue": "haulier-test-late"}]))
    world.pipeline.ended(job)
    world.alerted("HaulierNoticesLate", than=1)
    notifier = world.pipeline.notifier()
    world.ended("HaulierNoticesLate", than=1)
    notifier.stop()


def blobs_failing(world: World) -> None:
    root = Path(unquote(urlsplit(world.api.blobs.url).path))
    away = root.with_name("away")
    root.rename(away)
    root.write_text("a mount that is gone")
    assert world.api.http.post("/v1/jobs", json=chat("n")).status_code == 503
    world.alerted("HaulierBlobsFailing")
    root.unlink()
    away.rename(root)
    world.ended("HaulierBlobsFailing")
    assert world.pipeline.ended(world.api.submit("n")).succeeded == 1


def restarts(world: World) -> None:
    for _ in range(2):
        world.scheduler.stop()
        world.scheduler = world.pipeline.scheduler()
        eventually(lambda: "scheduler_started" in world.scheduler.output)
    world.alerted("HaulierRestarts", than=0.5)
    world.ended("HaulierRestarts", than=0.5)


FIRST: list[Callable[[World], None]] = [account_blocked, parked, together_failing]
OTHERS: list[Callable[[World], None]] = [
    messages_unread,
    many_dead,
    scratch_full,
    process_missing,
    overdue,
    waiting,
    slow_batch,
    lane_resting,
    odd_answers,
    messages_set_aside,
    jobs_held,
    budget_reached,
    notices_late,
    blobs_failing,
    restarts,
]


@pytest.mark.slow
def test_what_wakes_people_is_seen_and_seen_to_end(world: World) -> None:
    for scenario in FIRST:
        scenario(world)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", OTHERS, ids=lambda scenario: scenario.__name__)
def test_every_other_alert_too(world: World, scenario: Callable[[World], None]) -> None:
    world.pipeline.ended(world.api.submit("before"))
    scenario(world)


@pytest.mark.slow
def test_servers_that_are_away(
    private_servers: Servers, private_processes: Processes, tmp_path: Path
) -> None:
    api = private_processes.haulier("api", "--port", "0")
    target = started_url(api).removeprefix("http://")
    private_processes.start(SCHEDULER)
    with scraping(target, tmp_path / "prometheus") as prometheus:
        eventually(lambda: prometheus.value('haulier_processes{kind="scheduler"} == 1'))
        for alert, server in (
            ("HaulierRedisAway", private_servers.valkey),
            ("HaulierAway", private_servers.postgres),
        ):
            server.stop()
            eventually(partial(prometheus.value, expression(alert)), 60)
            server.start()
            eventually(partial(prometheus.value, f"absent({expression(alert)})"), 60)
            eventually(partial(prometheus.value, "haulier_database_up == 1"))
