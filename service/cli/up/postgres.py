"""An embedded PostgreSQL server."""

import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import psycopg

from config.secret_files import without_secrets
from service.cli.run.process import Process, spawn, tail
from service.cli.up.errors import StartError
from service.cli.up.pidfile import end_previous
from service.cli.up.postgres_programs import (
    SHELTER,
    Programs,
    find_programs,
    passable,
    reaches,
    within_reach,
)

_NAME = "haulier"
_UNPRIVILEGED = ("postgres", "nobody")
_NOT_ITS_OWN = ("PG", "LC_", "HAULIER_", "TOGETHER_")


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """A server on 127.0.0.1 that keeps its data in `home/postgres`.

    PostgreSQL refuses to run as root. For root, the server runs as the user `postgres`, else
    `nobody`. If that user cannot reach `home` (below /root, say), `home/postgres` is a link into
    SHELTER.
    """

    home: Path
    port: int
    password: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """More settings of the server. They override the defaults."""
    initdb_arguments: tuple[str, ...] = ()
    major: int | None = None
    """The major version for new data; None: the wheel's, or the newest installed."""

    @property
    def data(self) -> Path:
        return (self.home / "postgres").resolve()

    @property
    def url(self) -> str:
        return f"postgresql://{_NAME}:{self.password}@127.0.0.1:{self.port}/postgres"

    def prepare(self) -> None:
        """Stop a server that an earlier run left. Make the data directory, whole or not at all.

        Raises StartError, OSError.
        """
        home = self.home.resolve()
        place = home / "postgres"
        if place.exists():
            self._end_previous()
            return
        # It may be a link whose target is gone.
        place.unlink(missing_ok=True)
        sheltered = self._user is not None and not reaches(self._user, home)
        parent = SHELTER if sheltered else home
        prefix = _digest(home) if sheltered else "postgres"
        passable(parent)
        _remove_unfinished(parent, prefix)
        unfinished = parent / f"{prefix}-{secrets.token_hex(4)}.new"
        self._initialise(unfinished)
        if sheltered:
            kept = unfinished.with_suffix("")
            (unfinished / "data").rename(kept)
            place.symlink_to(kept)
        else:
            (unfinished / "data").rename(place)
        _sync(parent)
        _sync(home)
        # Once more: the child of a killed initdb may write for another moment.
        _remove_unfinished(parent, prefix)

    def _initialise(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        password = directory / "password"
        password.touch(mode=0o600)
        password.write_text(f"{self.password}\n")
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            for path in (directory, password):
                os.chown(path, account.pw_uid, account.pw_gid)
        initdb = Process(
            name="initdb",
            argv=[
                str(self._programs.directory / "initdb"),
                *("-D", str(directory / "data"), "-U", _NAME, "--pwfile", str(password)),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums"),
                *self.initdb_arguments,
            ],
            env=_environment(),
            user=self._user,
            directory=directory,
            log=self._log,
        )
        try:
            status = spawn(initdb).wait(timeout=120)
        except subprocess.TimeoutExpired:
            status = -1
        if status != 0:
            raise StartError(f"initdb failed ({self._log}):\n{tail(self._log)}")

    def process(self) -> Process:
        """Return the server for a supervisor. Call `prepare` first. Raises StartError, OSError."""
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            # A socket's path may be too long, or its directory closed to the server's user.
            "unix_socket_directories": "",
            "max_connections": "100",
            "log_checkpoints": "off",
            **self.settings,
        }
        chosen = [part for pair in settings.items() for part in ("-c", "=".join(pair))]
        return Process(
            name="postgres",
            argv=[str(self._programs.directory / "postgres"), "-D", str(self.data), *chosen],
            env=_environment(),
            user=self._user,
            directory=self.data,
            log=self._log,
            before=self._end_previous,
            ready=self.ready,
            # SIGINT is a "fast" shutdown: it ends all sessions and leaves nothing to recover.
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGINT,
            stop_timeout=timedelta(seconds=60),
        )

    def ready(self) -> bool:
        """Return whether the server accepts connections."""
        try:
            status = self._pid_file.read_text().splitlines()[7]
            if status.strip() != "ready":
                return False
            psycopg.connect(self.url, connect_timeout=2).close()
        except (OSError, IndexError, psycopg.Error):
            return False
        return True

    @property
    def _pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    @property
    def _log(self) -> Path:
        return self.home.resolve() / "postgres.log"

    def _end_previous(self) -> None:
        # The server does not start if any process has the pid in the file.
        end_previous(self._pid_file, data=self.data, stop_signal=signal.SIGINT)

    @cached_property
    def _programs(self) -> Programs:
        major = self.major
        with suppress(FileNotFoundError):
            major = int((self.data / "PG_VERSION").read_text())
        return within_reach(find_programs(major), self._user)

    @property
    def _user(self) -> str | None:
        """The user to run the server as: for root, the owner of the data. None: the present one."""
        if os.geteuid() != 0:
            return None
        with suppress(FileNotFoundError, KeyError):
            owner = self.data.stat().st_uid
            if owner != 0:
                return pwd.getpwuid(owner).pw_name
        for name in _UNPRIVILEGED:
            with suppress(KeyError):
                return pwd.getpwnam(name).pw_name
        raise StartError(
            "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run "
            "it as: start as another user, or set DATABASE_URL to a server of yours"
        )


def _environment() -> dict[str, str]:
    # Leave out clients' settings and Haulier's secrets. Messages are in English.
    environment = without_secrets(os.environ)
    inherited = {k: v for k, v in environment.items() if not k.startswith(_NOT_ITS_OWN)}
    return {**inherited, "LC_ALL": "C"}


def _digest(home: Path) -> str:
    return hashlib.sha256(str(home).encode()).hexdigest()[:12]


def _remove_unfinished(parent: Path, prefix: str) -> None:
    """Remove unfinished data directories. The caller holds the home's lock."""
    for unfinished in parent.glob(f"{prefix}-*.new"):
        shutil.rmtree(unfinished, ignore_errors=True)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
