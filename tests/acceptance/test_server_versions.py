"""The oldest servers that the machine has to offer, beside the newest that all tests run on."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.rules.states import JobState
from tests.conftest import process_environment
from tests.pipeline import Pipeline, chat
from tests.processes import Processes
from tests.servers import UNSYNCED, Databases, open_directory, running_postgres, running_valkey
from tests.simulator import Simulator

OLDEST_POSTGRES = 15


def debian_postgres() -> int | None:
    """The oldest PostgreSQL from Debian's packages that Haulier supports."""
    found = [int(path.name) for path in Path("/usr/lib/postgresql").glob("[0-9]*")]
    return min((major for major in found if major >= OLDEST_POSTGRES), default=None)


@pytest.fixture
def old_servers() -> Iterator[tuple[str, str]]:
    """(DATABASE_URL, REDIS_URL) of Debian's PostgreSQL and Redis."""
    major, redis = debian_postgres(), shutil.which("redis-server")
    if major is None or redis is None:
        pytest.skip("Debian's packages postgresql and redis-server are not installed")
    with (
        open_directory("old") as home,
        running_postgres(home, UNSYNCED, major=major) as postgres,
        running_valkey(home, program=Path(redis)) as valkey,
    ):
        databases = Databases(postgres.url)
        yield databases.runtime(databases.create()), valkey.url


def test_a_job_completes_on_the_oldest_servers_of_this_machine(
    old_servers: tuple[str, str], blob_url: str, tmp_path: Path, simulator: Simulator
) -> None:
    environment = process_environment(*old_servers, blob_url, tmp_path)
    processes = Processes(tmp_path, environment)
    pipeline = Pipeline(processes, environment, simulator.url)
    simulator.line_rule("error", custom_id="b", times=1)
    try:
        pipeline.worker()
        pipeline.scheduler()
        job = pipeline.ended(pipeline.submit(chat("a", "b", "c")))
    finally:
        pipeline.close()
        processes.stop()

    assert job.state is JobState.COMPLETED
    assert job.succeeded == 3


def test_the_servers_of_the_suite_are_new(database_url: str, redis_url: str) -> None:
    """Says which ones they are (run with -rP to see)."""
    import psycopg
    import redis

    with psycopg.connect(database_url) as connection:
        postgres = connection.info.server_version // 10_000
    with redis.Redis.from_url(redis_url) as client:
        info = client.info("server")
    cache = str(info.get("valkey_version", info["redis_version"]))
    python = subprocess.run(["python3", "-V"], capture_output=True, text=True, check=False).stdout
    print(f"PostgreSQL {postgres}, Valkey or Redis {cache}, {python}")
    assert postgres >= OLDEST_POSTGRES
    assert re.match(r"6\.2|[789]\.|\d\d", cache)
