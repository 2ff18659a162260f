"""`haulier up` as its users have it: one command, real servers, real processes."""

import json
import os
import shlex
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from config.secret_files import SECRETS
from tests.cli import run
from tests.eventually import eventually
from tests.processes import Processes, Running, gone
from tests.servers import children, open_directory

PARTS = ("postgres", "valkey", "simulator", "api", "worker", "scheduler", "inbox")
NOT_OURS = ("HAULIER_", "TOGETHER_", "DATABASE_URL", "REDIS_URL")


@pytest.fixture
def place() -> Iterator[Path]:
    with open_directory("up") as directory:
        yield directory


@pytest.fixture
def started(place: Path, tmp_path: Path) -> Iterator[Processes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(NOT_OURS)}
    environment["HAULIER_HOME"] = str(place / "home")
    processes = Processes(tmp_path, environment)
    yield processes
    processes.kill()
    print(processes.tails())


class Up:
    """A running `haulier up --simulate`."""

    def __init__(self, started: Processes, place: Path, **environment: str) -> None:
        self.home = place / "home"
        self.running: Running = started.haulier("up", "--simulate", "--port", "0", **environment)
        eventually(self._is_up, timeout=60)
        lines = (self.home / "env").read_text().splitlines()
        pairs = (shlex.split(line)[1].split("=", 1) for line in lines)
        self.variables = dict(pairs)

    def _is_up(self) -> bool:
        assert self.running.alive, self.running.output
        return "Haulier is up" in self.running.output

    @property
    def family(self) -> list[int]:
        """All processes below it."""
        return descendants(self.running.pid)

    def pid(self, part: str) -> int:
        """The pid of a part as it was first started."""
        started = said(self.running, "process_started")
        pid = next(event["pid"] for event in started if event["process"] == part)
        assert isinstance(pid, int)
        return pid

    def get(self, path: str) -> int:
        request = urllib.request.Request(
            self.variables["HAULIER_URL"] + path,
            headers={"Authorization": f"Bearer {self.variables['HAULIER_TOKEN']}"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=10) as response:
            return int(response.status)


def said(up: Running, event: str) -> list[dict[str, object]]:
    """What the supervisor of `up` logged of its processes under this name."""
    lines = (json.loads(line) for line in up.output.splitlines() if line.startswith("{"))
    events = (line for line in lines if line["event"] == event)
    return [line for line in events if line["process"] in PARTS]


def descendants(pid: int) -> list[int]:
    below = children(pid)
    return below + [grandchild for child in below for grandchild in descendants(child)]


@pytest.mark.slow
def test_what_a_running_one_keeps_to_itself_and_how_it_ends(
    started: Processes, place: Path, tmp_path: Path
) -> None:
    umask = os.umask(0)
    try:
        up = Up(
            started,
            place,
            HAULIER_ACCOUNTS='{"research": {"api_key": "tgp_other"}}',
            HAULIER_ADMIN_TOKEN_FILE=str(written(tmp_path / "token", "0123456789abcdefghij")),
            HAULIER_TOKEN="the-token-of-a-client",
            TOGETHER_API_KEY_FILE=str(written(tmp_path / "key", "tgp_default")),
        )
    finally:
        os.umask(umask)
    assert up.variables["HAULIER_TOKEN"] == "0123456789abcdefghij"
    assert up.get("/v1/accounts") == 200
    if Path("/proc/self/environ").exists():  # only Linux shows it
        check_secrets_of_the_parts(up)
    check_the_environment_is_whole(up, tmp_path)
    check_a_second_one_is_refused(started, up)
    check_ctrl_c(up)
    check_owners_alone(up)
    kept = json.loads((up.home / "up.json").read_text())
    secrets = ("0123456789abcdefghij", kept["postgres_password"], kept["valkey_password"])
    logs = "".join(path.read_text() for path in (up.home / "logs").iterdir())
    assert "request_answered" in logs
    assert "request_answered" not in up.running.output
    assert not [secret for secret in secrets if secret in up.running.output + logs]


def check_the_environment_is_whole(up: Up, elsewhere: Path) -> None:
    """Whoever has read the file is told the same wherever they are."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(NOT_OURS)}
    found = run("doctor", "--json", env={**environment, **up.variables}, cwd=elsewhere)
    levels = {finding["check"]: finding["level"] for finding in found.documents}
    # Its processes may not have said yet that they live.
    checked = ("database", "migrations", "broker", "blobs", "accounts", "admin token")
    assert {levels[check] for check in checked} == {"ok"}, found.out
    assert str(up.home) in found.out
    assert not (elsewhere / ".haulier").exists()


def check_secrets_of_the_parts(up: Up) -> None:
    """Each part gets the secrets that it needs."""
    servers = {"DATABASE_URL", "REDIS_URL"}
    keys = {"TOGETHER_API_KEY", "HAULIER_ACCOUNTS"}
    assert {part: secrets_of(up.pid(part)) for part in PARTS} == {
        **{part: set() for part in ("postgres", "valkey", "simulator")},
        "api": {"DATABASE_URL", "HAULIER_ADMIN_TOKEN"},
        "worker": servers | keys,
        "scheduler": servers,
        "inbox": servers,
    }
    # The notifier has no keys, the two Celery workers do.
    sizes = [len(servers), len(servers | keys), len(servers | keys)]
    eventually(lambda: sorted(len(secrets_of(pid)) for pid in children(up.pid("worker"))) == sizes)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def secrets_of(pid: int) -> set[str]:
    """The secrets in the environment of a process; accounts without keys are none."""
    content = Path(f"/proc/{pid}/environ").read_bytes().decode()
    pairs = dict(line.split("=", 1) for line in content.split("\0") if line)
    if 'api_key": null' in pairs.get("HAULIER_ACCOUNTS", ""):
        del pairs["HAULIER_ACCOUNTS"]
    known = {name for secret in SECRETS for name in (secret, f"{secret}_FILE")}
    return known & pairs.keys()


def check_a_second_one_is_refused(started: Processes, up: Up) -> None:
    """And hurts nobody."""
    second = started.haulier("up", "--simulate", "--port", "0")
    assert second.wait() == 1
    assert f"another `haulier up` (process {up.running.pid}) runs in" in second.output
    assert up.get("/readyz") == 200


def check_ctrl_c(up: Up) -> None:
    """It stops all, in order and cleanly."""
    family = up.family
    up.running.signal(signal.SIGINT)
    assert up.running.wait() == 0
    assert all(map(gone, family))
    stopped = [event["process"] for event in said(up.running, "process_stopped")]
    assert set(stopped[:3]) == {"worker", "scheduler", "inbox"}
    assert stopped[3:] == ["api", "simulator", "valkey", "postgres"]
    assert "process_killed" not in up.running.output
    assert "database system is shut down" in (up.home / "postgres.log").read_text()


def check_owners_alone(up: Up) -> None:
    """What it keeps is its owner's alone."""
    kept = [path for path in up.home.rglob("*") if not path.is_symlink()]
    assert {"env", "lock", "up.json", "blobs", "postgres.log"} <= {path.name for path in kept}
    open_ones = [path for path in kept if path.stat().st_mode & 0o077]
    assert open_ones == []
    # Root's Postgres is another user, who has to enter.
    assert up.home.stat().st_mode & 0o066 == 0


def test_a_killed_part_comes_back_and_a_kill_of_all_loses_only_the_processes(
    started: Processes, place: Path
) -> None:
    up = Up(started, place)
    postmaster = up.pid("postgres")
    os.kill(postmaster, signal.SIGKILL)
    eventually(lambda: gone(postmaster))
    eventually(lambda: psycopg.connect(up.variables["DATABASE_URL"])).close()
    eventually(lambda: up.get("/readyz") == 200)

    with psycopg.connect(up.variables["DATABASE_URL"]) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    with redis.Redis.from_url(up.variables["REDIS_URL"]) as client:
        client.set("kept", "1")
    # Celery's parents and their children.
    eventually(lambda: len(descendants(up.pid("worker"))) >= 4)
    family = up.family

    up.running.kill()
    eventually(lambda: all(map(gone, family)), timeout=10)

    # In a shell that has read its environment file, as most have.
    again = Up(started, place, **up.variables)
    api = {"HAULIER_URL"}
    assert {k: v for k, v in again.variables.items() if k not in api} == {
        k: v for k, v in up.variables.items() if k not in api
    }
    assert again.get("/readyz") == 200
    with psycopg.connect(again.variables["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
    with redis.Redis.from_url(again.variables["REDIS_URL"]) as client:
        assert client.get("kept") == b"1"


def test_servers_named_by_the_environment_are_used(
    started: Processes, place: Path, empty_database_url: str, redis_url: str
) -> None:
    up = Up(started, place, DATABASE_URL=empty_database_url, REDIS_URL=redis_url)
    assert up.variables["DATABASE_URL"] == empty_database_url
    assert up.variables["REDIS_URL"] == redis_url
    assert not (up.home / "postgres").exists()
    assert not (up.home / "valkey").exists()


def test_without_a_key_it_names_both_ways_out(started: Processes) -> None:
    up = started.haulier("up", "--port", "0")
    assert up.wait() == 1
    assert "set TOGETHER_API_KEY" in up.output
    assert "haulier up --simulate" in up.output
    assert "Traceback" not in up.output


def test_a_taken_port_is_named_before_anything_starts(started: Processes, place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        up = started.haulier("up", "--simulate", "--port", str(port))
        assert up.wait() == 1
    assert f"port {port} is taken: choose another with --port {port + 1}" in up.output
    assert not (place / "home" / "postgres").exists()
