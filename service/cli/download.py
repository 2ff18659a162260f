"""Results on their way, through interruptions, into a file that is whole or not there."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import typer

from service.cli.client import Client, Unavailable
from service.cli.follow import PATIENCE

PAUSE = 0.5
"""Seconds before a download that broke off is gone on with."""


def downloaded(
    client: Client,
    job_id: UUID,
    *,
    partial: bool,
    only: str | None,
    opened: Callable[[int | None], None],
) -> Iterator[bytes]:
    """All the result lines in blocks; `opened` is told their bytes, None where nobody knows.

    What breaks off goes on where it was, for as long as the API is patiently waited for. Partial
    results do not: they are others each time; nor do those of one outcome, which have no
    ranges. Raises ApiError.
    """
    received, etag, seen = 0, None, time.monotonic()
    while True:
        try:
            with client.results(
                job_id, partial=partial, only=only, start=received, etag=etag
            ) as body:
                etag = body.etag
                if received == 0:
                    opened(body.length)
                for block in body.blocks:
                    received, seen = received + len(block), time.monotonic()
                    yield block
        except Unavailable:
            if etag is None or time.monotonic() - seen > PATIENCE.total_seconds():
                raise
            time.sleep(PAUSE)
        else:
            return


@contextmanager
def written(target: Path) -> Iterator[BinaryIO]:
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
