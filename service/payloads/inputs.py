"""Reading the file that a spec's `input` points to, if the producer may read it.

The `input` of a job that was made from an uploaded file names the blob of that file. No spec can
name one: `may_read` does not allow the scheme.
"""

from collections.abc import Iterator
from pathlib import Path

from service.payloads.blobs import Blobs
from service.rules.errors import HaulierError
from service.rules.spec import may_read, place

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
    except (FileNotFoundError, PermissionError) as error:  # other errors may be transient
        raise InputUnreadable(f"input {url!r} cannot be read: {error}") from None
