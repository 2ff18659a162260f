"""Postgres, Redis or Together away for a while: work waits, and goes on by itself."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
import redis
from celery import Celery
from sqlalchemy import text

from service.rules.states import BatchState, JobState
from service.store import engine
from service.store.models import Batch
from tests.api import client, started_url
from tests.eventually import eventually
from tests.faults.conservation import assert_conserved, ids
from tests.pipeline import Pipeline, chat
from tests.processes import Processes, Running
from tests.servers import Server, Servers
from tests.simulator import Simulator

LEASE = timedelta(seconds=2)
TICK = timedelta(seconds=0.1)
SLACK = timedelta(seconds=2)
"""For a busy machine."""


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    return {**environment, **_waits()}


@pytest.fixture
def private_environment(private_environment: dict[str, str]) -> dict[str, str]:
    return {**private_environment, **_waits()}


def _waits() -> dict[str, str]:
    return {
        "HAULIER_LEASE_SECONDS": str(LEASE.total_seconds()),
        "HAULIER_TICK_SECONDS": str(TICK.total_seconds()),
    }


# --- Postgres and Redis --------------------------------------------------------------------------


@dataclass
class Deployment:
    """Everything that a deployment has, on servers of its own."""

    pipeline: Pipeline
    servers: Servers
    api: Running
    inbox: Running
    scheduler: Running
    worker: Running
    http: httpx.Client

    def post(self, *custom_ids: str) -> UUID:
        """Submit over HTTP."""
        answer = self.http.post("/v1/jobs", json=chat(*custom_ids))
        assert answer.status_code == 201, answer.text
        return UUID(answer.json()["id"])

    def send(self, *custom_ids: str) -> UUID:
        """Submit as a message."""
        return send(self.servers.valkey.url, *custom_ids)

    def all_alive(self) -> bool:
        return all(p.alive for p in (self.api, self.inbox, self.scheduler, self.worker))

    def assert_all_done(self, simulator: Simulator, jobs: dict[UUID, list[str]]) -> None:
        """Every job has what it asked for, and nobody bought anything twice."""
        for job_id, custom_ids in jobs.items():
            job = self.pipeline.ended(job_id)
            assert (job.state, job.succeeded) == (JobState.COMPLETED, len(custom_ids))
            assert [line["custom_id"] for line in self.pipeline.results(job_id)] == custom_ids
        totals = simulator.books().totals
        assert totals.duplicate_successes == 0
        # Small jobs share batches.
        assert totals.batches_created <= len(jobs)
        assert self.all_alive()


def send(redis_url: str, *custom_ids: str) -> UUID:
    job_id = uuid4()
    with Celery("producer", broker=redis_url) as producer:
        producer.send_task(
            "haulier.submit",
            kwargs={"spec": chat(*custom_ids)},
            queue="haulier.submit",
            task_id=str(job_id),
        )
    return job_id


@pytest.fixture
def private_pipeline(
    private_processes: Processes, private_environment: dict[str, str], simulator: Simulator
) -> Iterator[Pipeline]:
    made = Pipeline(private_processes, private_environment, simulator.url)
    yield made
    made.close()


@pytest.fixture
def deployment(private_pipeline: Pipeline, private_servers: Servers) -> Iterator[Deployment]:
    pipeline = private_pipeline
    api = pipeline.processes.haulier("api", "--port", "0")
    inbox, scheduler, worker = pipeline.inbox(), pipeline.scheduler(), pipeline.worker()
    with client(started_url(api)) as http:
        yield Deployment(pipeline, private_servers, api, inbox, scheduler, worker, http)


def test_postgres_may_die_in_the_middle_and_stay_away(
    deployment: Deployment, simulator: Simulator
) -> None:
    simulator.switch(batch_seconds=1)
    postgres = deployment.servers.postgres
    jobs = {
        deployment.post(f"a{number}", f"b{number}"): [f"a{number}", f"b{number}"]
        for number in "123"
    }
    eventually(lambda: simulator.batches_created >= 1, 60)

    postgres.stop(signal.SIGQUIT)
    sent = deployment.send("c", "d")
    eventually(lambda: "postgres_unavailable" in deployment.inbox.output)
    eventually(lambda: "postgres_unavailable" in deployment.scheduler.output)
    assert deployment.http.post("/v1/jobs", json=chat("e")).status_code == 503
    postgres.start()

    deployment.assert_all_done(simulator, {**jobs, sent: ["c", "d"]})


def read_only(url: str, *, on: bool) -> None:
    """As a standby is until it is promoted; what is connected stays connected."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        value = "on" if on else "off"
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        connection.execute("SELECT pg_reload_conf()")


def beats(deployment: Deployment) -> set[str]:
    """The kinds of processes of which one was seen a moment ago."""
    statement = text(
        "SELECT kind FROM haulier.heartbeats WHERE seen_at > now() - interval '7 seconds'"
    )
    with deployment.pipeline.db.begin() as session:
        return set(session.scalars(statement))


def test_postgres_may_be_read_only_for_a_while(
    deployment: Deployment, private_servers: Servers, simulator: Simulator
) -> None:
    simulator.switch(batch_seconds=1)
    url = private_servers.postgres.url
    jobs = {deployment.post(f"a{number}"): [f"a{number}"] for number in "123"}
    eventually(lambda: simulator.batches_created >= 1, 60)

    read_only(url, on=True)
    try:
        eventually(lambda: _refused(deployment))
        jobs |= {deployment.send(name): [name] for name in "xyz"}
        eventually(lambda: "postgres_unavailable" in deployment.inbox.output)
        eventually(lambda: "postgres_unavailable" in deployment.scheduler.output)
        # Long enough for every kind of process to have missed a heartbeat.
        eventually(lambda: not beats(deployment))
        assert deployment.all_alive()
    finally:
        read_only(url, on=False)

    eventually(lambda: beats(deployment) >= {"worker", "scheduler", "inbox"})
    deployment.assert_all_done(simulator, jobs)


def _refused(deployment: Deployment) -> bool:
    answer = deployment.http.post("/v1/jobs", json=chat("refused"))
    assert answer.status_code == 503, answer.text
    return "Retry-After" in answer.headers


@pytest.mark.slow
def test_postgres_may_be_restarted_over_and_over(
    deployment: Deployment, simulator: Simulator
) -> None:
    simulator.switch(batch_seconds=0.5)
    jobs = {}
    for number in "1234":
        jobs[deployment.post(f"a{number}")] = [f"a{number}"]
        deployment.servers.postgres.restart(signal.SIGQUIT)
        eventually(lambda: deployment.http.get("/readyz").status_code == 200)

    deployment.assert_all_done(simulator, jobs)


def down(valkey: Server) -> Callable[[], None]:
    valkey.kill()
    return valkey.start


def frozen(valkey: Server) -> Callable[[], None]:
    valkey.freeze()
    return valkey.thaw


def restarted(valkey: Server) -> Callable[[], None]:
    valkey.restart()
    return lambda: None


def flushed(valkey: Server) -> Callable[[], None]:
    with redis.Redis.from_url(valkey.url) as connection:
        connection.flushall()
    return lambda: None


@pytest.mark.parametrize(
    "hurt",
    [
        down,
        pytest.param(frozen, marks=pytest.mark.slow),
        pytest.param(restarted, marks=pytest.mark.slow),
        flushed,
    ],
)
def test_redis_costs_time_and_nothing_else(
    deployment: Deployment, simulator: Simulator, hurt: Callable[[Server], Callable[[], None]]
) -> None:
    simulator.switch(batch_seconds=1)
    jobs = {deployment.post("a"): ["a"], deployment.send("b"): ["b"]}
    eventually(lambda: simulator.batches_created >= 1, 60)

    heal = hurt(deployment.servers.valkey)
    jobs[deployment.post("c")] = ["c"]  # HTTP does not need Redis
    if hurt in {down, frozen}:
        eventually(lambda: "redis_unavailable" in deployment.scheduler.output, 60)
        jobs[deployment.post("d")] = ["d"]
    heal()
    jobs[deployment.send("e")] = ["e"]

    deployment.assert_all_done(simulator, jobs)


def test_submissions_in_the_queue_survive_the_death_of_redis(
    private_pipeline: Pipeline, private_servers: Servers
) -> None:
    sent = {send(private_servers.valkey.url, custom_id) for custom_id in ids(5)}

    private_servers.valkey.restart(signal.SIGKILL)
    private_pipeline.inbox()

    eventually(
        lambda: {private_pipeline.job(job_id).state for job_id in sent} == {JobState.RUNNING}
    )


# --- Together ------------------------------------------------------------------------------------


def test_together_may_be_away_for_much_longer_than_a_lease(
    processes: Processes, environment: dict[str, str]
) -> None:
    with Simulator(batch_seconds=1) as together:
        pipeline = Pipeline(processes, environment, together.url)
        pipeline.scheduler(HAULIER_SHARD_REQUESTS="2")
        pipeline.worker()
        early = pipeline.submit(chat(*ids(4), max_attempts=1), shard_requests=2)
        eventually(lambda: together.batches_created == 2, 60)

        together.stop()
        late = pipeline.submit(chat("x", "y", max_attempts=1))
        _pass(pipeline, LEASE * 3)
        touched = pipeline.batches(early) + pipeline.batches(late)
        together.start()

        for job_id, custom_ids, batches in ((early, ids(4), 2), (late, ["x", "y"], 1)):
            job = pipeline.ended(job_id)
            assert (job.succeeded, job.attempts) == (len(custom_ids), 1)
            assert [line["custom_id"] for line in pipeline.results(job_id)] == custom_ids
            assert pipeline.batch_count(job_id) == batches
        assert {batch.tries for batch in touched} == {0}
        assert max(batch.failures for batch in touched) > 0
        totals = together.books().totals
        assert (totals.batches_created, totals.duplicate_successes) == (3, 0)
        pipeline.close()


def _pass(pipeline: Pipeline, time: timedelta) -> None:
    """Let time pass on the database's clock."""
    since = engine.clock(pipeline.db)
    eventually(lambda: engine.clock(pipeline.db) > since + time)


@pytest.mark.parametrize(
    "cuts",
    [
        [(True, "honoured", True), (False, "ignored", False)],
        pytest.param(
            list(product((True, False), ("honoured", "ignored"), (True, False))),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["two", "all"],
)
def test_a_cut_download_is_never_taken_for_missing_lines(
    pipeline: Pipeline, simulator: Simulator, cuts: list[tuple[bool, str, bool]]
) -> None:
    pipeline.scheduler()
    pipeline.worker()
    for clean, ranges, content_length in cuts:
        simulator.reset()
        simulator.switch(range=ranges, content_length=content_length)
        for fraction in (0, 0.3, 0.9):
            simulator.fault("content", "cut", fraction=fraction, clean=clean)

        job = pipeline.ended(pipeline.submit(chat(*ids(20), max_attempts=1)))

        assert_conserved(pipeline, simulator, job, ids(20), batches=1)
        assert job.succeeded == 20
        assert len(simulator.requests("content")) >= 4


# --- how fast it recovers ------------------------------------------------------------------------


def test_work_goes_on_within_a_lease_and_two_ticks_of_the_workers_restart(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    simulator.hold("put", times=4)
    pipeline.scheduler()
    victims = [pipeline.worker(), pipeline.worker()]
    jobs = [pipeline.submit(chat(f"r{number}")) for number in range(6)]
    simulator.wait_held("put", count=4, timeout=60)

    for victim in victims:
        victim.kill()
        victim.stop()
    stuck = {batch.id: batch.lease for batch in _leased(pipeline, jobs)}
    workers = [pipeline.worker(), pipeline.worker()]
    eventually(lambda: all(" ready." in worker.output for worker in workers), 60)
    ready_at = engine.clock(pipeline.db)
    taken_at: dict[UUID, datetime] = {}
    eventually(lambda: _note_claims(pipeline, jobs, stuck, taken_at), 60, interval=0.01)

    slowest = max(taken_at.values()) - ready_at
    print(f"recovered {slowest.total_seconds():.2f} s after the restart; lease {LEASE}")
    assert slowest < LEASE + 2 * TICK + SLACK
    assert {pipeline.ended(job_id).succeeded for job_id in jobs} == {1}
    assert simulator.books().totals.batches_created <= len(jobs)


def _leased(pipeline: Pipeline, jobs: list[UUID]) -> list[Batch]:
    found = [batch for job_id in jobs for batch in pipeline.batches(job_id)]
    leased = [batch for batch in found if batch.lease is not None]
    assert leased
    return leased


def _note_claims(
    pipeline: Pipeline,
    jobs: list[UUID],
    stuck: dict[UUID, Any],
    taken_at: dict[UUID, datetime],
) -> bool:
    """Note when each stuck batch was claimed anew, at the latest; whether all were."""
    now = engine.clock(pipeline.db)
    for batch in (batch for job_id in jobs for batch in pipeline.batches(job_id)):
        moved_on = batch.state is not BatchState.QUEUED or batch.lease != stuck.get(batch.id)
        if batch.id in stuck and moved_on:
            taken_at.setdefault(batch.id, now)
    return len(taken_at) == len(stuck)
