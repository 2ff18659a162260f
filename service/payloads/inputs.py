"""What a spec's `input` points to: where it may lie, and its bytes.

A job that was made of an uploaded file has its blob as input. No spec can say so: the scheme is
none that `may_read` allows.
"""

from collections.abc import Iterator
from pathlib import Path

from service.payloads.blobs import Blobs
from service.rules.errors import HaulierError
from service.rules.spec import may_read, place

UPLOADED = "haulier-file:"


class InputUnreadable(HaulierError):
    """What `input` points to is not there or must not be read."""


def uploaded(blob: str) -> str:
    """The input that stands for an uploaded file."""
    return f"{UPLOADED}{blob}"


def uploaded_blob(url: str | None) -> str | None:
    """The blob of the uploaded file that an input stands for, if it does."""
    return url.removeprefix(UPLOADED) if url is not None and url.startswith(UPLOADED) else None


def open_uploaded(blob: str, blobs: Blobs) -> Iterator[bytes]:
    """The bytes of an uploaded file, in blocks. Raises InputUnreadable."""
    try:
        yield from blobs.stream(blob)
    except FileNotFoundError:
        raise InputUnreadable("the uploaded file is not there any more") from None


def open_input(url: str, roots: tuple[str, ...]) -> Iterator[bytes]:
    """The bytes behind a spec's `input`, in blocks. Raises InputUnreadable.

    The roots hold for where a link leads, too.
    """
    target = place(url)
    if target is None or not may_read(url, roots):
        raise InputUnreadable(f"input {url!r} does not lie under one of the allowed input roots")
    scheme, bucket, path = target
    if scheme == "file":
        real = Path(path).resolve()
        real_roots = tuple(
            Path(root[2]).resolve().as_uri()
            for root in map(place, roots)
            if root is not None and root[0] == "file"
        )
        if not may_read(real.as_uri(), real_roots):
            raise InputUnreadable(f"input {url!r} leads out of the allowed input roots")
        folder, name = real.parent.as_uri(), real.name
        if not real.is_file():
            raise InputUnreadable(f"input {url!r} is not a file that can be read")
    else:
        folder, name = f"s3://{bucket}", path.lstrip("/")
    try:
        yield from Blobs(folder, create=False).stream(name)
    except (FileNotFoundError, PermissionError) as error:  # all else may pass: try again
        raise InputUnreadable(f"input {url!r} cannot be read: {error}") from None
