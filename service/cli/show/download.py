"""Results on their way, through interruptions, into a file that is whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import typer


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
