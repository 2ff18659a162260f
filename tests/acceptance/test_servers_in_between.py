"""Jobs where a pooler, a failover, Sentinel or TLS stands between Haulier and its servers."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit
from uuid import UUID, uuid4

import psycopg
import pytest
import redis
from celery import Celery
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from service.rules.states import JobState
from service.store import engine, jobs
from service.store.models import Job
from service.store.revisions import is_migrated
from service.store.schema import migrate
from tests.between import ODD, Watched, pgbouncer, primary_and_standby, tls_before
from tests.conftest import process_environment
from tests.eventually import eventually
from tests.pipeline import Pipeline, chat
from tests.processes import Processes
from tests.servers import Databases, open_directory
from tests.simulator import Simulator
from workers.broker import celery_settings
from workers.examine import describe

AWAY = "postgresql://nobody:x@127.0.0.1:1/away"


@contextmanager
def deployed(environment: dict[str, str], simulator: Simulator, logs: Path) -> Iterator[Pipeline]:
    """Worker, scheduler and inbox in an environment."""
    processes = Processes(logs, environment, fork=True)
    pipeline = Pipeline(processes, environment, simulator.url)
    try:
        pipeline.worker()
        pipeline.scheduler()
        pipeline.inbox()
        yield pipeline
    except BaseException:
        print(processes.tails())
        raise
    finally:
        pipeline.close()
        processes.stop()


def sent(redis_url: str, *custom_ids: str) -> UUID:
    """Submit a job over the queue as another application does."""
    task_id = uuid4()
    with Celery("producer") as producer:
        producer.conf.update(celery_settings(redis_url))
        kwargs = {"spec": chat(*custom_ids)}
        producer.send_task(
            "haulier.submit", kwargs=kwargs, queue="haulier.submit", task_id=str(task_id)
        )
    return task_id


@pytest.fixture
def pooled(databases: Databases, empty_database_url: str) -> Iterator[dict[str, str]]:
    """The URLs of a database behind PgBouncer, migrated through it, for the
    runtime role, and of one that is away."""
    if shutil.which("pgbouncer") is None:
        pytest.skip("Debian's package pgbouncer is not installed")
    databases.drop(databases.create())  # the role is there
    runtime = databases.runtime(empty_database_url)
    with (
        open_directory("pgbouncer") as home,
        pgbouncer(home, owner=empty_database_url, haulier=runtime, away=AWAY) as urls,
    ):
        migrate(urls["owner"], runtime_role=urlsplit(runtime).username)
        yield urls


def ended(pipeline: Pipeline, job_id: UUID) -> Job:
    """A job from the queue, once it has ended."""
    eventually(lambda: jobs.job(pipeline.db, job_id, None))
    return pipeline.ended(job_id)


def test_everything_works_behind_pgbouncer_in_transaction_mode(
    pooled: dict[str, str], redis_url: str, blob_url: str, tmp_path: Path, simulator: Simulator
) -> None:
    environment = process_environment(pooled["haulier"], redis_url, blob_url, tmp_path)
    with deployed(environment, simulator, tmp_path) as pipeline:
        simulator.line_rule("error", custom_id="b", times=1)
        submitted = [pipeline.submit(chat("a", "b")), sent(redis_url, "c", "d")]
        assert [ended(pipeline, one).succeeded for one in submitted] == [2, 2]

        with pipeline.db.begin() as session:
            assert is_migrated(pipeline.db)
            for limit, value in (("statement_timeout", "1min"), ("timezone", "UTC")):
                assert session.scalar(text(f"SHOW {limit}")) == value
        # Whoever gets a connection of ours next has no limits of ours.
        with psycopg.connect(pooled["haulier"]) as other:
            for _ in range(5):
                assert other.execute("SHOW statement_timeout").fetchone() == ("0",)
                assert other.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (
                    0,
                )
                other.commit()
        # A Postgres that is away is no fault of a row, also where PgBouncer is there.
        away = engine.create(pooled["away"])
        with pytest.raises(DBAPIError) as raised:
            engine.clock(engine.database(away))
        away.dispose()
        assert engine.is_unavailable(raised.value)


def followed(primary: str, standby: str) -> None:
    """Wait until a standby has all that its primary has committed."""
    with psycopg.connect(primary) as connection:
        (written,) = connection.execute("SELECT pg_current_wal_lsn()").fetchone() or (None,)
    with psycopg.connect(standby, autocommit=True) as connection:
        there = "SELECT pg_last_wal_replay_lsn() >= %s"
        eventually(lambda: connection.execute(there, [written]).fetchone() == (True,))


@pytest.mark.slow
def test_a_failover_between_the_hosts_of_the_database_url_is_ridden_out(
    redis_url: str, blob_url: str, tmp_path: Path, simulator: Simulator
) -> None:
    with (
        open_directory("standby") as home,
        primary_and_standby(home) as (primary, standby),
    ):
        databases = Databases(primary.url)
        one = urlsplit(databases.runtime(databases.create()))
        hosts = f"127.0.0.1:{one.port},127.0.0.1:{urlsplit(standby.url).port}"
        url = one._replace(
            netloc=f"{one.username}:{one.password}@{hosts}",
            query="target_session_attrs=read-write",
        ).geturl()
        environment = process_environment(url, redis_url, blob_url, tmp_path)
        with deployed(environment, simulator, tmp_path) as pipeline:
            first = pipeline.ended(pipeline.submit(chat("a")))
            followed(primary.url, standby.url)
            primary.kill()
            with psycopg.connect(standby.url, autocommit=True) as connection:
                connection.execute("SELECT pg_promote()")
            second = ended(pipeline, sent(redis_url, "b"))
            assert (first.succeeded, second.succeeded) == (1, 1)
            assert pipeline.job(first.id).state is JobState.COMPLETED


@pytest.mark.parametrize("fails", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sentinels_lead_every_process_to_the_primary(
    runtime_url: str, blob_url: str, tmp_path: Path, simulator: Simulator, *, fails: bool
) -> None:
    with open_directory("sentinel") as home:
        watched = Watched(home)
        with watched.running():
            environment = process_environment(runtime_url, watched.url, blob_url, tmp_path)
            with deployed(environment, simulator, tmp_path) as pipeline:
                assert ended(pipeline, sent(watched.url, "a")).succeeded == 1
                if fails:
                    watched.primary.kill()
                    eventually(lambda: describe(watched.url).get("role") == "master", timeout=30)
                    assert ended(pipeline, sent(watched.url, "b")).succeeded == 1


def test_a_broker_behind_tls_is_trusted_with_its_certificate_alone(
    runtime_url: str, redis_url: str, blob_url: str, tmp_path: Path, simulator: Simulator
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "odd", "on", f">{ODD}", "~*", "&*", "+@all")
        number = urlsplit(redis_url).path[1:]
    with tls_before(redis_url, tmp_path) as (port, certificate):
        secure = f"rediss://odd:{quote(ODD, safe='')}@127.0.0.1:{port}/{number}"
        assert "certificate verify failed" in describe(secure)["error"].lower()
        unchecked = describe(f"{secure}?ssl_cert_reqs=none")
        assert unchecked["role"] == "master"

        trusting = f"{secure}?ssl_ca_certs={certificate}"
        environment = process_environment(runtime_url, trusting, blob_url, tmp_path)
        with deployed(environment, simulator, tmp_path) as pipeline:
            assert ended(pipeline, sent(trusting, "a")).succeeded == 1
