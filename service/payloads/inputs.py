"""Reading the file that a spec's `input` points to, if the producer may read it.

The `input` of a job that was made from an uploaded file names the blob of that file. No spec can
name one: `may_read` does not allow the scheme.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from service.payloads.blobs import BLOCK, Blobs
from service.rules.errors import HaulierError
from service.rules.permissions import may_read, place

UPLOADED = "haulier-file:"


class InputUnreadable(HaulierError):
    """The file that `input` points to does not exist, or the producer may not read it."""


def uploaded(blob: str) -> str:
    """Return the `input` that names the blob of an uploaded file."""
    return f"{UPLOADED}{blob}"


def uploaded_blob(url: str | None) -> str | None:
    """Return the blob of the uploaded file that an `input` names. Returns None if it names none."""
    return url.removeprefix(UPLOADED) if url is not None and url.startswith(UPLOADED) else None


def open_uploaded(blob: str, blobs: Blobs) -> Iterator[bytes]:
    """Yield the bytes of an uploaded file, in blocks. Raises InputUnreadable."""
    try:
        yield from blobs.stream(blob)
    except FileNotFoundError:
        raise InputUnreadable(
            "the uploaded file no longer exists; upload it again and submit a new job"
        ) from None


def open_input(url: str, roots: tuple[str, ...]) -> Iterator[bytes]:
    """Yield the bytes of the file behind a spec's `input`, in blocks. Raises InputUnreadable.

    The target of a symbolic link must lie under one of the roots, too.
    """
    target = place(url)
    if target is None or not may_read(url, roots):
        raise InputUnreadable(f"input {url!r} does not lie under one of the allowed input roots")
    scheme, bucket, path = target
    try:
        if scheme == "file":
            yield from _local(url, path, roots)
        else:
            yield from Blobs(f"s3://{bucket}", create=False).stream(path.lstrip("/"))
    except OSError as error:
        final = isinstance(error, FileNotFoundError | PermissionError) or error.errno in _FINAL
        if not final:
            raise  # it may be transient
        words = f"input {url!r} is not a file that can be read: {error.strerror or error}"
        raise InputUnreadable(words) from None


# What is wrong with the path itself; ENXIO is a socket.
_FINAL = {errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ENXIO}


def _local(url: str, path: str, roots: tuple[str, ...]) -> Iterator[bytes]:
    """Yield a local file. It is opened first, and then what was opened is checked.

    Whoever owns a link on the way could point it elsewhere between a check and an opening.
    """
    # Without waiting: a pipe has no end until somebody writes to it. Nor does a terminal
    # become this process's own.
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        real = _path_of(opened)
        real_roots = tuple(
            Path(root[2]).resolve().as_uri()
            for root in map(place, roots)
            if root is not None and root[0] == "file"
        )
        if not (real.is_absolute() and may_read(real.as_uri(), real_roots)):
            raise InputUnreadable(f"input {url!r} leads out of the allowed input roots")
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise InputUnreadable(f"input {url!r} is not a file that can be read")
        while block := os.read(opened, BLOCK):
            yield block
    finally:
        os.close(opened)


def _path_of(opened: int) -> Path:
    """Return where an open file lies, without links on the way: the system knows."""
    asked = getattr(fcntl, "F_GETPATH", None)  # macOS
    if asked is None:
        return Path(f"/proc/self/fd/{opened}").readlink()
    return Path(os.fsdecode(fcntl.fcntl(opened, asked, bytes(1024)).rstrip(b"\0")))
