"""Fixtures for every test: real servers, fresh databases, real processes."""

import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import redis
import structlog

from tests.processes import Processes
from tests.servers import (
    CARELESS,
    UNSYNCED,
    Databases,
    Servers,
    open_directory,
    running_postgres,
    running_valkey,
)

pytest_plugins = [
    "tests.simulator",
    "tests.pipeline",
    "tests.api",
    "tests.cli",
    "tests.retention",
]

# Started in the background, as CI may be, we would hand on that these are ignored.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

# Hundreds of processes and every xdist worker would compile all modules anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# With rich at hand, structlog would show the local variables of every frame. That takes minutes for
# a traceback through the API, whose event loop stands still meanwhile.
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback

_REPORTS = pytest.StashKey[Processes]()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A Postgres for the session: `DATABASE_URL`'s, else one of our own."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    with open_directory("postgres") as home, running_postgres(home, CARELESS) as server:
        yield server.url


@pytest.fixture(scope="session")
def valkey_url(worker_id: str) -> Iterator[str]:
    """A Valkey for the session: `REDIS_URL`'s with a database number for us, else our own."""
    if url := os.environ.get("REDIS_URL"):
        number = int(worker_id.removeprefix("gw")) + 1 if worker_id.startswith("gw") else 0
        yield f"{url.rsplit('/', 1)[0]}/{number}" if number else url
        return
    with open_directory("valkey") as home, running_valkey(home) as server:
        yield server.url


@pytest.fixture(scope="session")
def databases(postgres_url: str) -> Iterator[Databases]:
    """Makes and drops databases, for tests that need more than one."""
    made = Databases(postgres_url)
    yield made
    made.close()


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """A fresh, migrated database."""
    url = databases.create()
    yield url
    databases.give_back(url)


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """A fresh database without a schema."""
    url = databases.create_empty()
    yield url
    databases.drop(url)


@pytest.fixture
def redis_url(valkey_url: str) -> str:
    """An empty Valkey database."""
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
    return valkey_url


@pytest.fixture
def blob_url(tmp_path: Path) -> str:
    """Blob storage in a directory of this test."""
    directory = tmp_path / "blobs"
    directory.mkdir()
    return directory.as_uri()


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory for `haulier up`, where root's Postgres can live too."""
    with open_directory("home") as directory:
        yield directory


@pytest.fixture
def private_servers() -> Iterator[Servers]:
    """A Postgres and a Valkey of this test's own, to be killed, frozen and restarted."""
    with (
        open_directory("servers") as home,
        running_postgres(home, UNSYNCED) as postgres,
        running_valkey(home) as valkey,
    ):
        yield Servers(postgres, valkey)


@pytest.fixture
def runtime_url(databases: Databases, database_url: str) -> str:
    """The fresh database, for a role that has the rights of a process and owns nothing."""
    return databases.runtime(database_url)


@pytest.fixture
def environment(runtime_url: str, redis_url: str, blob_url: str, tmp_path: Path) -> dict[str, str]:
    """The environment for Haulier's processes, with waits short enough for tests."""
    return process_environment(runtime_url, redis_url, blob_url, tmp_path)


@pytest.fixture
def private_environment(private_servers: Servers, blob_url: str, tmp_path: Path) -> dict[str, str]:
    """Like `environment`, on the private servers, with a migrated database."""
    made = Databases(private_servers.postgres.url)
    url = made.runtime(made.create())
    return process_environment(url, private_servers.valkey.url, blob_url, tmp_path)


def process_environment(
    database_url: str, redis_url: str, blob_url: str, directory: Path
) -> dict[str, str]:
    """What Haulier's processes find in their environment."""
    servers = {"DATABASE_URL": database_url, "REDIS_URL": redis_url}
    return {**_inherited(), **_settings(directory, blob_url), **servers}


def _inherited() -> dict[str, str]:
    ours = ("HAULIER_", "TOGETHER_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _settings(directory: Path, blob_url: str) -> dict[str, str]:
    return {
        "HAULIER_ADMIN_TOKEN": "test-admin-token-for-all",
        "HAULIER_BLOB_URL": blob_url,
        "HAULIER_CREATE_GRACE_SECONDS": "0.5",
        "HAULIER_SETTLE_PATIENCE_SECONDS": "2",
        "HAULIER_HOME": str(directory / "home"),
        "HAULIER_LEASE_SECONDS": "3",
        "HAULIER_PACK_SECONDS": "0.1",
        "HAULIER_RETRY_PACK_SECONDS": "0.2",
        "HAULIER_POLL_SECONDS": "0.1",
        "HAULIER_PROBE_SECONDS": "0.2",
        "HAULIER_REST_SECONDS": "0.5",
        "HAULIER_RETRY_BASE_SECONDS": "0.1",
        "HAULIER_TICK_SECONDS": "0.1",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def processes(
    request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path
) -> Iterator[Processes]:
    """Starts Haulier's processes in `environment`; ends them after the test."""
    yield from _processes(request, environment, tmp_path)


@pytest.fixture
def private_processes(
    request: pytest.FixtureRequest, private_environment: dict[str, str], tmp_path: Path
) -> Iterator[Processes]:
    """Like `processes`, in `private_environment`."""
    yield from _processes(request, private_environment, tmp_path)


def _processes(
    request: pytest.FixtureRequest, environment: dict[str, str], directory: Path
) -> Iterator[Processes]:
    logs = directory / "logs"
    logs.mkdir(exist_ok=True)
    started = Processes(logs, environment, fork=True)
    request.node.stash[_REPORTS] = started
    yield started
    started.kill()  # a worker that is asked takes two seconds


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    started = item.stash.get(_REPORTS, None)
    if started is not None and report.failed:
        report.sections.append(("logs of the processes", started.tails()))
    return report
