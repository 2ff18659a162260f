"""`haulier doctor`: on real servers, and on what is wrong with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from service.cli.operate.checks import Level, _broker, _postgres
from service.store import engine
from service.store.heartbeats import beat
from tests.cli import run
from tests.factories import Harness
from tests.simulator import Simulator

KEY = "key-that-nobody-sees"
TOKEN = "0123456789abcdefghij"
NOWHERE = "127.0.0.1:1"


@dataclass(frozen=True)
class Examined:
    status: int
    out: str
    levels: dict[str, str]


def examined(directory: Path, environment: Mapping[str, str], **more: str) -> Examined:
    together = {"TOGETHER_API_KEY": KEY, **more}
    done = run("doctor", "--json", env={**environment, **together}, cwd=directory)
    assert done.err == ""
    assert KEY not in done.out
    for finding in done.documents:
        assert (finding["todo"] is None) == (finding["level"] in {"ok", "skipped"}), finding
    levels = {str(finding["check"]): str(finding["level"]) for finding in done.documents}
    return Examined(done.status, done.out, levels)


def test_a_healthy_deployment_is_found_healthy(
    environment: dict[str, str], simulator: Simulator, tmp_path: Path
) -> None:
    connections = engine.create(environment["DATABASE_URL"])
    db = engine.database(connections)
    for kind in ("worker", "scheduler", "inbox", "notifier"):
        beat(db, name=kind, kind=kind, host="h", pid=1, queues=[], slots=1)
    # They stay alive for as long as this machine takes to start the doctor.
    Harness(db).run("UPDATE haulier.heartbeats SET seen_at = now() + interval '1 hour'")
    connections.dispose()
    found = examined(
        tmp_path,
        environment,
        TOGETHER_BASE_URL=simulator.url,
        HAULIER_ADMIN_TOKEN=TOKEN,
        HAULIER_QUEUE_SIGNED="true",
    )

    assert set(found.levels.values()) == {"ok"}, found.out
    assert found.status == 0
    checks = {
        "database",
        "migrations",
        "database role",
        "clock",
        "worker",
        "scheduler",
        "inbox",
        "notifier",
        "broker",
    }
    checks |= {"blobs", "scratch", "account default", "admin token", "queue"}
    checks |= {"unread lists"}
    assert set(found.levels) == checks
    left = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert left == []


def test_a_role_that_owns_the_tables_is_a_warning(
    environment: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    found = examined(tmp_path, environment, DATABASE_URL=database_url)
    assert found.levels["database role"] == "warning"
    assert "haulier migrate --runtime-role" in found.out


def test_a_role_without_rights_is_a_problem_that_says_what_to_do(
    environment: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    role = urlsplit(environment["DATABASE_URL"]).username
    with psycopg.connect(database_url) as connection:
        connection.execute(f"REVOKE USAGE ON SCHEMA haulier FROM {role}")
    found = examined(tmp_path, environment)
    assert found.levels["database"] == "problem"
    assert "haulier migrate --runtime-role" in found.out


def test_what_is_wrong_is_a_problem_and_what_hangs_on_it_is_skipped(
    environment: dict[str, str], empty_database_url: str, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.keys({KEY: 401})
    (tmp_path / "file").touch()
    with redis.Redis.from_url(environment["REDIS_URL"]) as broker:
        broker.lpush("ours.haulier.submit", "a", "b")
    found = examined(
        tmp_path,
        environment,
        DATABASE_URL=empty_database_url,
        TOGETHER_BASE_URL=simulator.url,
        HAULIER_ADMIN_TOKEN="abc" * 10,
        HAULIER_BLOB_URL=(tmp_path / "file" / "blobs").as_uri(),
        HAULIER_SCRATCH=str(tmp_path / "file" / "scratch"),
    )

    assert found.status == 1
    assert found.levels == {
        "database": "ok",
        "clock": "ok",
        "migrations": "problem",
        "processes": "skipped",
        "broker": "ok",
        "unread lists": "warning",
        "blobs": "problem",
        "scratch": "problem",
        "account default": "problem",
        "admin token": "warning",
        "queue": "warning",
    }, found.out
    assert "2 messages in lists that nobody reads: 'ours.haulier.submit' (2)" in found.out


@pytest.mark.parametrize("sourced", [False, True])
def test_beside_up_its_keys_are_not_asked_for(
    environment: dict[str, str],
    database_url: str,
    tmp_path: Path,
    simulator: Simulator,
    sourced: bool,
) -> None:
    (tmp_path / ".haulier").mkdir()
    left = f"export DATABASE_URL={database_url}\nexport HAULIER_TOKEN={TOKEN}\n"
    if sourced:
        left += f"export HAULIER_SIMULATOR_URL={simulator.url}\n"
    (tmp_path / ".haulier" / "env").write_text(left)
    found = examined(
        tmp_path,
        environment,
        TOGETHER_API_KEY="",
        HAULIER_HOME=str(tmp_path / ".haulier"),
        DATABASE_URL=database_url if sourced else "",
    )

    assert found.levels["database"] == "ok", found.out
    assert found.levels["accounts"] == ("ok" if sourced else "skipped")


def test_where_nothing_answers_no_secret_is_shown(
    environment: dict[str, str], tmp_path: Path
) -> None:
    found = examined(
        tmp_path,
        environment,
        DATABASE_URL=f"postgresql://u:pass-word@{NOWHERE}/x",
        REDIS_URL=f"redis://:pass-word@{NOWHERE}/0",
        TOGETHER_BASE_URL=f"http://{NOWHERE}",
        HAULIER_BLOB_URL=(tmp_path / "no" / "blobs").as_uri(),
        HAULIER_SCRATCH=str(tmp_path / "no" / "scratch"),
    )

    assert found.status == 1
    # What is missing is said, and not made.
    assert (found.levels["blobs"], found.levels["scratch"]) == ("warning", "warning")
    assert not (tmp_path / "no").exists()
    assert "pass-word" not in found.out
    for check in ("database", "broker", "account default"):
        assert found.levels[check] == "problem"
    for check in ("clock", "migrations", "processes"):
        assert found.levels[check] == "skipped"


@pytest.mark.parametrize(
    ("policy", "role", "level"),
    [
        ("noeviction", "master", Level.OK),
        ("allkeys-lru", "master", Level.PROBLEM),
        ("noeviction", "slave", Level.PROBLEM),
    ],
)
def test_a_broker_that_may_lose_messages_is_a_problem(policy: str, role: str, level: Level) -> None:
    found = {"name": "Redis", "version": "7.0", "maxmemory_policy": policy, "role": role}
    assert _broker(found).level is level


@pytest.mark.parametrize(("version", "level"), [(140_010, Level.PROBLEM), (150_000, Level.OK)])
def test_an_old_postgres_is_a_problem(version: int, level: Level) -> None:
    assert _postgres(version).level is level
