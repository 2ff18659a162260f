"""The directory of one `haulier up`: its lock, secrets and remembered ports."""

import fcntl
import os
import secrets
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from service.cli.up.errors import StartError
from service.payloads.private import private


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The state that outlives a run."""

    simulated: bool
    """Whether its jobs were sent to the simulator."""
    admin_token: str
    postgres_password: str
    valkey_password: str
    ports: dict[str, int] = {}
    """The last port of each server."""


LOGS = "logs"
"""The folder of the logs of Haulier's own processes."""
SIMULATOR_URL = "HAULIER_SIMULATOR_URL"
"""The variable in the file `env` that says where everything that goes to Together really goes."""


class Home:
    """The directory of one instance."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.environment_file = self.directory / "env"
        self._kept_file = self.directory / "up.json"

    def make(self) -> None:
        """Create what is missing. Raises StartError."""
        # For root, Postgres runs as another user, who must be able to enter.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        try:
            if not self.directory.is_dir():
                self.directory.mkdir(mode=mode, parents=True, exist_ok=True)
                self.directory.chmod(mode)  # whatever the umask
            for name in ("blobs", "simulator", LOGS):
                (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartError(
                f"cannot create {error.filename}: {error.strerror}; "
                "set HAULIER_HOME to another directory"
            ) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory's lock. Raises StartError if another `haulier up` holds it."""
        with open(self.directory / "lock", "a+", opener=private) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise StartError(
                    f"another `haulier up` (process {holder}) runs in {self.directory}: stop it, "
                    "or set HAULIER_HOME to another directory"
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def kept(self, *, simulated: bool) -> Kept:
        """Return the state of the last run, or a new one with new secrets. Raises StartError."""
        try:
            kept = msgspec.json.decode(self._kept_file.read_bytes(), type=Kept)
        except FileNotFoundError:
            if (self.directory / "postgres").exists():
                raise StartError(
                    f"{self._kept_file} is gone, and with it the password of the database in "
                    f"{self.directory}: put it back, or set HAULIER_HOME to another directory"
                ) from None
            return Kept(
                simulated=simulated,
                admin_token=secrets.token_urlsafe(24),
                postgres_password=secrets.token_hex(16),
                valkey_password=secrets.token_hex(16),
            )
        except (OSError, msgspec.DecodeError) as error:
            raise StartError(f"cannot read {self._kept_file}: {error}") from None
        if kept.simulated != simulated:
            # Unfinished jobs would go on elsewhere: for real money, or without a result.
            was = "with --simulate" if kept.simulated else "against Together for real"
            raise StartError(
                f"{self.directory} was started {was}, and its jobs belong there: "
                "set HAULIER_HOME to another directory for this one"
            )
        return kept

    def keep(self, kept: Kept) -> None:
        """Write the state for the next run. Raises OSError."""
        _write_private(self._kept_file, msgspec.json.format(msgspec.json.encode(kept)))

    def write_environment(self, variables: Mapping[str, str]) -> None:
        """Write a file for a shell to source. Raises OSError."""
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
        _write_private(self.environment_file, "".join(lines).encode())


def _write_private(path: Path, content: bytes) -> None:
    """Replace a file, whole or not at all. Only its owner can read it."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
