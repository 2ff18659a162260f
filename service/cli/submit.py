"""`haulier submit`: requests go in, a job's id comes out."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from service.cli.client import Client, Envelope, Submitted, Unavailable
from service.cli.exits import Exit
from service.cli.screen import notes, output
from service.cli.session import connected
from service.cli.watch import watched
from service.lines import CHAT

BLOCK = 1 << 18
STANDARD_INPUT = Path("-")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked for on the command line. None: not given."""

    file: Path | None
    spec: Path | None
    endpoint: str | None
    account: str | None
    max_attempts: int | None
    priority: int | None
    metadata: str | None
    idempotency_key: str | None

    def source(self) -> Path:
        """The file to read. Raises BadParameter unless there is one, of one kind."""
        if self.file is not None and self.spec is not None:
            raise typer.BadParameter("give a FILE of requests or a --spec, not both")
        source = self.file or self.spec
        if source is None:
            raise typer.BadParameter("give a FILE of requests (JSONL), or a --spec")
        return source

    def envelope(self) -> Envelope | None:
        """What surrounds the requests; None for a spec, which has it within."""
        given = {
            "--endpoint": self.endpoint,
            "--account": self.account,
            "--max-attempts": self.max_attempts,
            "--priority": self.priority,
            "--metadata": self.metadata,
        }
        if self.spec is not None:
            named = [name for name, value in given.items() if value is not None]
            if named:
                raise typer.BadParameter(f"{', '.join(named)}: write it into the --spec instead")
            return None
        return Envelope(
            endpoint=self.endpoint or CHAT,
            account=self.account,
            max_attempts=self.max_attempts,
            priority=self.priority,
            metadata=self.metadata,
        )


def submit(asked: Asked, *, wait: bool, as_json: bool) -> None:
    """The command."""
    source, envelope = asked.source(), asked.envelope()
    key = asked.idempotency_key
    if key is not None and not (key.isascii() and key.isprintable()):
        raise typer.BadParameter("--idempotency-key: use printable ASCII characters")
    with connected() as client:
        with _opened(source) as file:
            submitted = _send(client, file, envelope, key)
        output().line(submitted.job.line if as_json else submitted.job.value.id)
        _tell(submitted, wait=wait)
        if not wait:
            return
        screen = output() if as_json else notes()
        job = watched(client, submitted.job.value.uuid, screen, as_json=as_json)
    raise typer.Exit(Exit.FINE if job.served else Exit.UNSERVED)


@contextmanager
def _opened(source: Path) -> Iterator[BinaryIO]:
    if source == STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    try:
        file = source.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {source}: {error.strerror}") from None
    with file:
        yield file


def _send(
    client: Client, file: BinaryIO, envelope: Envelope | None, idempotency_key: str | None
) -> Submitted:
    length = _length(file)
    try:
        if envelope is None:
            return client.submit_spec(file.read(), idempotency_key=idempotency_key)
        with _progress(length) as progress:
            blocks = _blocks(file, progress, length)
            return client.submit_lines(
                blocks, envelope, length=length, idempotency_key=idempotency_key
            )
    except Unavailable:
        if idempotency_key is not None:
            notes().line("Repeat the command: with its idempotency key nothing is submitted twice.")
        raise


def _length(file: BinaryIO) -> int | None:
    """Bytes from here to the end of a file; None for a pipe."""
    status = os.fstat(file.fileno())
    return status.st_size - file.tell() if S_ISREG(status.st_mode) else None


def _blocks(file: BinaryIO, progress: Progress, length: int | None) -> Iterator[bytes]:
    task = progress.add_task("Sending", total=length)
    left = length
    # What is appended while we read is left out: a longer body than announced is no body.
    while block := file.read(BLOCK if left is None else min(BLOCK, left)):
        yield block
        left = None if left is None else left - len(block)
        progress.advance(task, len(block))
    progress.update(task, description="Sent, being checked")


def _progress(length: int | None) -> Progress:
    """A bar that vanishes when all is sent; on a terminal only."""
    screen = notes()
    size = DownloadColumn() if length is not None else TextColumn("{task.completed:,} bytes")
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        size,
        TransferSpeedColumn(),
        console=screen.console,
        disable=not screen.is_terminal,
        transient=True,
    )


def _tell(submitted: Submitted, *, wait: bool) -> None:
    """What the id alone does not say."""
    screen, job = notes(), submitted.job.value
    if not submitted.new:
        screen.line("This was submitted before: here is the job of that time.")
    elif screen.is_terminal:
        requests = f"{job.total:,} requests" if job.total else "Its requests"
        screen.line(f"Accepted: {requests}")
        if not wait:
            screen.line(f"  haulier watch {job.id}")
