"""Real Postgres and Valkey servers for tests, from the classes behind `haulier up`."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import Engine

from service.cli.run.process import Child, Process, send, spawn, tail
from service.cli.up.ports import free_port
from service.cli.up.postgres import Postgres
from service.cli.up.valkey import Valkey
from tests import emptying
from tests.eventually import eventually

UNSYNCED = {"fsync": "off", "full_page_writes": "off"}
"""Survives any death of the server, though not of the machine. For servers that tests kill."""

CARELESS = {**UNSYNCED, "synchronous_commit": "off"}
"""Loses the last commits when the server dies. For servers that stay up."""


class Server:
    """One server of ours, which a test may treat badly."""

    def __init__(self, process: Process, url: str) -> None:
        self.process = process
        self.url = url
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None, f"{self.process.name} does not run"
        return self._child.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        assert self._child is None, f"{self.process.name} runs already"
        ready = self.process.ready
        assert ready is not None
        self._child = spawn(self.process)
        try:
            eventually(lambda: self._answers(ready()))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{tail(self.process.log)}") from error

    def _answers(self, ready: bool) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, f"{self.process.name} ended"
        return ready

    def stop(self, number: signal.Signals | None = None) -> None:
        """End it, in its usual way or with another signal, and wait until it is gone."""
        if self._child is None:
            return
        child, self._child = self._child, None
        send(child, signal.SIGCONT)
        send(child, number or self.process.stop_signal)
        try:
            child.wait(timeout=30)
        finally:
            send(child, signal.SIGKILL)
            child.wait(timeout=10)

    def kill(self) -> None:
        """kill -9."""
        self.stop(signal.SIGKILL)

    def restart(self, number: signal.Signals | None = None) -> None:
        """End it and start it again on its data. SIGQUIT is what `pg_ctl -m immediate` sends."""
        self.stop(number)
        self.start()

    def freeze(self) -> None:
        """Stop its clock, and that of its children: connections stay open, nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in (self.pid, *children(self.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


@dataclass(frozen=True)
class Servers:
    """A Postgres and a Valkey."""

    postgres: Server
    valkey: Server


def children(pid: int) -> list[int]:
    """The living children of a process."""
    if Path("/proc/self/task").exists():
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()]
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    pairs = (line.split() for line in listed.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


@contextmanager
def open_directory(name: str) -> Iterator[Path]:
    """A new directory that other users can pass through, which pytest's own they cannot.

    Root's Postgres needs that: it runs as another user.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"haulier-{name}-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def running_postgres(
    home: Path, settings: Mapping[str, str], *, major: int | None = None
) -> Iterator[Server]:
    """A Postgres of our own in `home`, of one version if that matters."""
    postgres = Postgres(
        home=home,
        port=free_port(),
        password=secrets.token_hex(8),
        settings=settings,
        initdb_arguments=("--no-sync",),
        major=major,
    )
    postgres.prepare()
    with running(Server(postgres.process(), postgres.url)) as server:
        yield server


@contextmanager
def running_valkey(home: Path, *, program: Path | None = None) -> Iterator[Server]:
    """A Valkey of our own in `home`, or another program that does the same."""
    valkey = Valkey(home=home, port=free_port(), password=secrets.token_hex(8), program=program)
    valkey.prepare()
    with running(Server(valkey.process(), valkey.url)) as server:
        yield server


@contextmanager
def running(server: Server) -> Iterator[Server]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


_ENDED = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = %s AND backend_type = 'client backend'
"""


class Databases:
    """Databases on one server, cloned from a migrated template."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self._template: str | None = None
        self._wanted: emptying.Template | None = None
        self._emptied: list[str] = []
        self._role, self._password = f"haulier_runtime_{secrets.token_hex(4)}", secrets.token_hex(8)

    def create(self) -> str:
        """Make a migrated database and return its URL."""
        if self._template is None:
            self._template = self._migrated()
        if self._emptied:
            return self._emptied.pop()
        name = _new_name()
        self._run("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy", name, self._template)
        return self._url(name)

    def give_back(self, url: str) -> None:
        """Let the next `create` have a database from it, under another name, if that is possible.

        Whoever still has the old URL, a thread that a test forgot, finds nothing there.
        """
        if self._wanted is None and self._template is not None:
            self._wanted = emptying.template(self._url(self._template))
        name, new = urlsplit(url).path.lstrip("/"), _new_name()
        try:
            with psycopg.connect(self._admin_url, autocommit=True) as connection:
                connection.execute(_ENDED, [name])
                renamed = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                connection.execute(renamed.format(sql.Identifier(name), sql.Identifier(new)))
            assert self._wanted is not None
            if emptying.empty(self._url(new), self._wanted):
                self._emptied.append(self._url(new))
                return
        except psycopg.Error:  # somebody is still there, or may not be thrown out
            self.drop(url)
        self.drop(self._url(new))

    def create_empty(self) -> str:
        """Make a database with nothing in it and return its URL."""
        name = _new_name()
        self._run("CREATE DATABASE {} TEMPLATE template0", name)
        return self._url(name)

    def runtime(self, url: str) -> str:
        """The URL of one of them for Haulier's processes, which own nothing in it."""
        parts = urlsplit(url)
        server = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{self._role}:{self._password}@{server}").geturl()

    def drop(self, url: str) -> None:
        self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", urlsplit(url).path.lstrip("/"))

    def close(self) -> None:
        for url in self._emptied:
            self.drop(url)
        if self._template is not None:
            self._run("DROP DATABASE IF EXISTS {} WITH (FORCE)", self._template)
            with suppress(psycopg.errors.DependentObjectsStillExist):  # a test left its database
                self._run("DROP ROLE {}", self._role)

    def _migrated(self) -> str:
        from service.store.schema import migrate

        name = f"haulier_template_{secrets.token_hex(6)}"
        self._run("CREATE DATABASE {} TEMPLATE template0", name)
        self._run(f"CREATE ROLE {{}} LOGIN PASSWORD '{self._password}'", self._role)
        migrate(self._url(name), runtime_role=self._role)
        return name

    def _url(self, name: str) -> str:
        return urlsplit(self._admin_url)._replace(path=f"/{name}").geturl()

    def _run(self, statement: str, *names: str) -> None:
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _new_name() -> str:
    return f"haulier_test_{secrets.token_hex(6)}"


def url_of(connections: Engine) -> str:
    """Where the connections of an engine lead to, as psycopg takes it."""
    with connections.connect() as connection:
        info = connection.connection.driver_connection.info  # type: ignore[union-attr]
        return make_conninfo(info.dsn, password=info.password)
