"""`haulier top`: once in a pipe, live on a terminal, through outages and changes of size."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cli import MODEL, Cli
from tests.eventually import eventually
from tests.factories import ill_lane
from tests.pipeline import Pipeline
from tests.processes import HAULIER


class Live:
    """`haulier top` on a terminal of some size, and all that it has written."""

    def __init__(self, process: "subprocess.Popen[bytes]", terminal: int) -> None:
        self.process = process
        self.terminal = terminal
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while block := os.read(self.terminal, 1 << 16):
                self._written += block
        except OSError:  # Linux says EIO when nobody writes any more
            return

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, key: str) -> None:
        os.write(self.terminal, key.encode())

    def forget(self) -> None:
        self._written.clear()

    def shows(self, words: str) -> bool:
        assert self.process.poll() is None, self._written.decode()
        return words in self._written.decode(errors="replace")


@contextmanager
def live(cli: Cli, *, columns: int, lines: int) -> Iterator[Live]:
    ours, theirs = pty.openpty()
    environment = {**cli.environment, "TERM": "xterm", "NO_COLOR": "1"}
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    with subprocess.Popen(
        [*HAULIER, "top", "--every", "0.5"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        cwd=cli.directory,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            yield Live(process, ours)
        finally:
            process.kill()
            process.wait()
            os.close(ours)


def test_top_shows_what_needs_a_person_and_outlives_the_api(cli: Cli, pipeline: Pipeline) -> None:
    job_id = cli.submit("a", "b")
    ill_lane(pipeline.db, MODEL)

    once = cli("top").out
    assert "needs you" in once
    assert "1 lane rests after trouble at Together" in once
    assert "haulier probe lane " in once
    assert "2 requests" in once
    assert job_id in once
    (document,) = cli("top", "--json").documents
    assert {"needs", "running", "lanes"} <= document.keys()
    assert cli("top", HAULIER_TOKEN="not-the-token").status == 2

    with live(cli, columns=80, lines=40) as screen:
        eventually(lambda: screen.shows(job_id))
        assert screen.shows("q ends this")
        screen.forget()
        screen.resize(100, 12)
        eventually(lambda: screen.shows("make the terminal higher"))
        cli.submit("c")
        eventually(lambda: screen.shows("3 requests"))
        screen.resize(120, 50)
        cli.api.stop()
        eventually(lambda: screen.shows("AWAY"))
        screen.press("q")
        assert screen.process.wait(20) == 0
