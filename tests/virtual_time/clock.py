"""A wall clock that can be moved, for processes that are started with its environment.

Not libfaketime: its release 0.9.10 breaks `time.sleep` of Python 3.11 (it moves the deadlines of
`clock_nanosleep` on the monotonic clock even where it was told to leave that clock alone).
"""

import mmap
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")
FORM = "=q"


class NoCompilerError(Exception):
    """There is no C compiler here, or none that can build the clock."""


def compiler() -> str | None:
    """The C compiler of this machine."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def works_here() -> bool:
    """Whether this machine can have such a clock."""
    return sys.platform.startswith("linux") and compiler() is not None


class VirtualClock:
    """The time of all processes that were started with `environment`. This one keeps the true time.

    It only goes forward, so set how far back it begins when it is made.
    """

    def __init__(self, directory: Path, *, begin_ago: timedelta = timedelta()) -> None:
        """Build the library and the file with the offset in `directory`, which others can read."""
        self._library = directory / "virtual_clock.so"
        self._place = directory / "virtual_clock"
        _build(self._library)
        self._place.write_bytes(bytes(struct.calcsize(FORM)))
        self._place.chmod(0o644)
        with self._place.open("r+b") as file:
            self._mapped = mmap.mmap(file.fileno(), struct.calcsize(FORM))
        self._offset = -begin_ago
        self._write()

    @property
    def environment(self) -> Mapping[str, str]:
        """What processes need in their environment to live by this clock."""
        return {"LD_PRELOAD": str(self._library), "VIRTUAL_CLOCK": str(self._place)}

    @property
    def offset(self) -> timedelta:
        """How far it is ahead of the true time; below zero: behind it."""
        return self._offset

    def time(self) -> float:
        """The virtual time, in Unix seconds."""
        return time.time() + self._offset.total_seconds()

    def jump(self, by: timedelta) -> None:
        """Move the time of all processes forward at once."""
        assert by >= timedelta(), f"the clock cannot go back by {-by}"
        self._offset += by
        self._write()

    def be_true(self) -> None:
        """Jump to the true time, and stay there."""
        self.jump(-self._offset)

    def _write(self) -> None:
        # Aligned and of eight bytes: no process sees half of it.
        nanoseconds = self._offset // timedelta(microseconds=1) * 1000
        self._mapped[:] = struct.pack(FORM, nanoseconds)


def _build(library: Path) -> None:
    program = compiler()
    if program is None:
        raise NoCompilerError(
            "virtual time needs a C compiler, and there is no `cc` here: "
            "apt-get install gcc libc6-dev (Debian, Ubuntu)"
        )
    built = subprocess.run(
        [program, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0:
        raise NoCompilerError(f"{program} cannot build {SOURCE.name}:\n{built.stderr}")
    os.chmod(library, 0o644)  # noqa: PTH101  Postgres may run as another user
