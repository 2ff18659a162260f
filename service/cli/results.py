"""`haulier results`: all result lines in input order, to a file whole or not at all."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import msgspec
import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from service.cli.client import Download, Refused
from service.cli.screen import notes, output
from service.cli.session import connected


def results(job_id: UUID, target: Path | None, *, partial: bool, as_json: bool) -> None:
    """The command. Without a target the lines go to standard output."""
    with connected() as client, _hinted(job_id), client.results(job_id, partial=partial) as body:
        if target is None:
            for block in body.blocks:
                sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
            return
        with _written(target) as file:
            lines, size = _copy(body, file)
        if as_json:
            told = {"output": str(target), "lines": lines, "bytes": size}
            output().line(msgspec.json.encode(told).decode())
        else:
            notes().line(f"{lines:,} results in {target}")


@contextmanager
def _hinted(job_id: UUID) -> Iterator[None]:
    """Say what to do about results that are not there yet."""
    try:
        yield
    except Refused as error:
        if error.status == 409:
            notes().line(f"(haulier watch {job_id} waits; --partial gives those that are there)")
        raise


def _copy(body: Download, file: BinaryIO) -> tuple[int, int]:
    """Write everything down; gives the number of lines and bytes."""
    screen = notes()
    lines = size = 0
    with Progress(
        TextColumn("Fetching"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=screen.console,
        disable=not screen.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task("", total=body.length)
        for block in body.blocks:
            file.write(block)
            lines += block.count(b"\n")
            size += len(block)
            progress.advance(task, len(block))
    return lines, size


@contextmanager
def _written(target: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when it is whole. Devices and pipes are written to directly."""
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                yield file
            return
        target = target.resolve()  # what a link points to is replaced, not the link
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with unfinished.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise typer.BadParameter(f"cannot write {target}: {error.strerror}") from None
