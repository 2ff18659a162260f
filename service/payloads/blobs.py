"""Blob storage: a folder or an S3 bucket. A blob is written once under a fresh name, never changed.

A blob becomes true when a row that names it is committed. A blob that no row names may be deleted.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import msgspec
import obstore
from obstore.exceptions import BaseError, PreconditionError
from obstore.store import LocalStore, ObjectStore, from_url
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from service.payloads.private import private, private_folder
from service.rules.errors import Broken
from service.rules.measures import BLOB_OPERATIONS, BLOB_SECONDS
from service.rules.work import Entry, Manifest

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig

BLOCK = 1 << 20
LIST_PAGE = 1000  # how many names S3 lists or deletes in one request
PART = 8 << 20  # S3 requires at least 5 MB; a writer holds two parts in memory

SPAN = 4 << 20
"""Bytes that one request reads from S3. Between two requests a reader may pause for long."""
LEAST_SPAN = 256 << 10
READ_TIMEOUT, WRITE_TIMEOUT = "30s", "120s"
"""Of one request with its body: a range, or a part. A lease lasts longer than a read."""
TRIES = 5
"""How often a range is asked for, each time a smaller one, before the stage fails."""

INLINE = 32_000
"""A packed manifest of up to so many bytes is kept by the row of its part, not as a blob."""

STORAGE_ERRORS = (BaseError,)
"""The errors of blob storage that are not OSErrors. Missing blobs raise FileNotFoundError."""

_manifest = msgspec.msgpack.Decoder(list[Entry])


class Writer(Protocol):
    """Takes the bytes of a blob. `size` is the offset at which the next bytes will stand."""

    name: str

    @property
    def size(self) -> int: ...

    def write(self, data: bytes) -> None: ...


class Destination(Protocol):
    """Where requests are stored as they are taken in: blob storage, or a bundle for it."""

    def writer(self, name: str) -> AbstractContextManager[Writer]: ...

    def put_manifest(self, name: str, entries: list[Entry]) -> Manifest: ...

    def get_manifest(self, manifest: Manifest) -> list[Entry]: ...


def folder_of(url: str) -> Path | None:
    """Return the folder that a URL of blob storage names; None if it is no folder."""
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


class BlobWriter:
    """Writes one blob, and counts its bytes."""

    def __init__(self, name: str, write: Callable[[bytes], object]) -> None:
        self.name = name
        self._write = write
        self.size = 0

    def write(self, data: bytes) -> None:
        try:
            self._write(data)
        except (OSError, *STORAGE_ERRORS):
            BLOB_OPERATIONS.count("write", "failed")
            raise
        self.size += len(data)


class Blobs:
    """The blob storage behind a URL (`file:///…` or `s3://…`).

    Open it after a fork, never before: its client has threads of its own.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self.url = url
        self._root = folder_of(url)
        self._store: ObjectStore
        self._target: ObjectStore
        if self._root is not None:
            if create:
                private_folder(self._root)
            self._store = LocalStore(self._root, mkdir=create)
            self._target = self._store
        else:
            self._store = from_url(url, client_options=_options(READ_TIMEOUT))
            self._target = from_url(url, client_options=_options(WRITE_TIMEOUT))

    @contextmanager
    def writer(self, name: str) -> Iterator[BlobWriter]:
        """Write a blob piece by piece. The blob is durable when the `with` block ends."""
        of_caller: BaseException | None = None
        try:
            with self._open_writer(name) as writer:
                try:
                    yield writer
                except BaseException as error:
                    of_caller = error
                    raise
            self._sync(name)
        except (OSError, *STORAGE_ERRORS) as error:
            if error is not of_caller:
                BLOB_OPERATIONS.count("write", "failed")
            raise
        BLOB_OPERATIONS.count("write", "ok")

    @contextmanager
    def _open_writer(self, name: str) -> Iterator[BlobWriter]:
        if self._root is not None:
            with _whole(self._root / name) as local:
                yield BlobWriter(name, local.write)
        else:
            file = obstore.open_writer(self._target, name, buffer_size=PART, max_concurrency=2)
            yield BlobWriter(name, file.write)
            file.close()

    def put(self, name: str, data: bytes) -> None:
        """Write a small blob in one piece."""
        with _counted("write"), BLOB_SECONDS.timed("write"):
            if self._root is not None:
                with _whole(self._root / name) as local:
                    local.write(data)
            else:
                obstore.put(self._target, name, data, use_multipart=False)
            self._sync(name)

    def get(self, name: str) -> bytes:
        """Return the whole of a small blob. Raises FileNotFoundError."""
        return b"".join(self.stream(name))

    def stream(
        self, name: str, offset: int = 0, length: int | None = None, *, block: int = BLOCK
    ) -> Iterator[bytes]:
        """Yield the bytes of a blob, or of a range of it, in blocks of at most `block` bytes.

        `name` may itself name a range (`range_of`). Raises FileNotFoundError, and Broken if the
        blob ends within the range.
        """
        name, start, size = place_of(name)
        if size is not None:
            length = size - offset if length is None else min(length, size - offset)
            offset += start
        if length == 0:
            return
        if self._root is not None:
            with _counted("read"):
                yield from _read(self._root / name, offset, length, block)
            return
        for span in self._spans(name, offset, length):
            for start in range(0, len(span), block):
                yield span[start : start + block]

    def _spans(self, name: str, offset: int, length: int | None) -> Iterator[bytes]:
        """Yield a range of a blob in S3, each span by a request of its own."""
        tag: str | None = None
        if length is None:
            whole, size, tag = self._opened(name)
            if whole is not None:
                yield whole[offset:]
                return
            length = size - offset
        end = offset + length
        while offset < end:
            for attempt in _again():
                with attempt, _counted("read"), BLOB_SECONDS.timed("read"):
                    # After a failure a smaller one: the way to S3 may be slow.
                    size = max(SPAN >> 2 * (attempt.retry_state.attempt_number - 1), LEAST_SPAN)
                    span, tag = self._span(name, offset, min(offset + size, end), tag)
            yield span
            offset += len(span)

    def _opened(self, name: str) -> tuple[bytes | None, int, str | None]:
        """Return a blob's content if that fits into a span, its size, and its tag."""
        for attempt in _again():
            with attempt, _counted("read"), BLOB_SECONDS.timed("read"):
                found = obstore.get(self._store, name)
                size = int(found.meta["size"])
                whole = bytes(found.bytes()) if size <= SPAN else None
        return whole, size, found.meta["e_tag"]

    def _span(self, name: str, start: int, end: int, tag: str | None) -> tuple[bytes, str | None]:
        """Return bytes of one state of the blob, which its `tag` names. Raises Broken."""
        options: GetOptions = {"range": (start, end)}
        if tag is not None:
            options["if_match"] = tag
        try:
            found = obstore.get(self._store, name, options=options)
            span = bytes(found.bytes())
        except STORAGE_ERRORS:
            if self.size(name) < end:
                raise _cut(name, end) from None
            raise
        if len(span) != end - start:
            raise _cut(name, end)
        return span, found.meta["e_tag"]

    def size(self, name: str) -> int:
        """Return the size of a blob in bytes. Raises FileNotFoundError."""
        return int(obstore.head(self._store, name)["size"])

    def is_there(self) -> bool:
        """Whether the storage holds any blob. If not, a missing blob says nothing of itself."""
        return any(
            next(self._listed(prefix), None) is not None
            for prefix in ("jobs/", "pages/", "batches/")
        )

    def put_manifest(self, name: str, entries: list[Entry]) -> Manifest:
        """Return a small manifest itself; store another one, and return where it is."""
        data = packed(entries)
        if len(data) <= INLINE:
            return data
        self.put(name, data)
        return name

    def get_manifest(self, manifest: Manifest) -> list[Entry]:
        """Read a manifest. Raises FileNotFoundError."""
        return unpacked(manifest if isinstance(manifest, bytes) else self.get(manifest))

    def older(self, prefix: str, before: datetime) -> Iterator[list[str]]:
        """Yield the names below a prefix (`jobs/`) of blobs written before then, in pages.

        Holds one page of the listing at a time. The caller may delete the blobs of a page before
        it asks for the next. On a disk, the pages include files that dead writers left behind.
        """
        page: list[str] = []
        for name, written_at in self._listed(prefix):
            if written_at < before:
                page.append(name)
            if len(page) == LIST_PAGE:
                yield page
                page = []
        if page:
            yield page

    def holds_younger(self, prefix: str, since: datetime) -> bool:
        """Whether any blob below a prefix was written since then."""
        return any(written_at >= since for _, written_at in self._listed(prefix))

    def delete(self, names: Sequence[str]) -> None:
        """Delete blobs, and the folders that become empty. Ignores blobs that are already gone."""
        if self._root is None:
            with _counted("delete"), BLOB_SECONDS.timed("delete"):
                obstore.delete(self._store, names)
            return
        for name in names:
            path = self._root / name
            with _counted("delete"):
                path.unlink(missing_ok=True)
            # Keep the folder of all jobs: another job may be about to be written there.
            with suppress(OSError):  # ends at the first folder that is not empty
                for folder in path.parents[: max(0, name.count("/") - 1)]:
                    folder.rmdir()

    def delete_under(self, prefix: str, before: datetime) -> None:
        """Delete the blobs below a prefix that were written before then."""
        for page in self.older(prefix, before):
            self.delete(page)

    def _listed(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Yield the names below a prefix that ends in a slash, and when they were written."""
        if not prefix.strip("/") or not prefix.endswith("/"):
            raise ValueError(f"{prefix!r} is not the name of a folder")
        if self._root is not None:
            for path, written_at in _files(self._root / prefix):
                yield os.path.relpath(path, self._root), written_at
            return
        for page in obstore.list(self._store, prefix=prefix, chunk_size=LIST_PAGE):
            for meta in page:
                yield meta["path"], meta["last_modified"]

    def _sync(self, name: str) -> None:
        """Make a blob on a local disk survive a power cut, as it must before a row may name it."""
        if self._root is None:
            return
        path = self._root / name
        for target in (path, *_created_with(path, self._root)):
            fd = os.open(target, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _options(timeout: str) -> "ClientConfig":
    """Return options of the HTTP client. They replace those that obstore takes from `AWS_…`."""
    given: dict[str, Any] = {"timeout": timeout, "connect_timeout": "10s"}
    for name in _OF_THE_ENVIRONMENT:
        value = os.environ.get(f"AWS_{name}".upper())
        if value is not None:
            given[name] = value
    return cast("ClientConfig", given)


_OF_THE_ENVIRONMENT = (
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "proxy_ca_certificate",
    "proxy_excludes",
    "proxy_url",
    "timeout",
    "user_agent",
)


@contextmanager
def _counted(operation: str) -> Iterator[None]:
    """Count an operation by what comes of it."""
    try:
        yield
    except FileNotFoundError:
        BLOB_OPERATIONS.count(operation, "missing")
        raise
    except (OSError, Broken, *STORAGE_ERRORS):
        BLOB_OPERATIONS.count(operation, "failed")
        raise
    except GeneratorExit:  # a reader that has enough
        BLOB_OPERATIONS.count(operation, "ok")
        raise
    else:
        BLOB_OPERATIONS.count(operation, "ok")


def _again() -> Retrying:
    return Retrying(
        retry=retry_if_exception(
            lambda error: (
                isinstance(error, STORAGE_ERRORS) and not isinstance(error, PreconditionError)
            )
        ),
        stop=stop_after_attempt(TRIES),
        wait=wait_random_exponential(max=3),
        reraise=True,
    )


def _cut(name: str, end: int) -> Broken:
    return Broken(f"blob {name} ends before byte {end:,}")


# Local files are written and read directly. That takes several times less CPU than through obstore,
# which passes them on in pieces of 8 kB.


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name only when it is complete."""
    private_folder(path.parent)
    part = path.with_name(f"{path.name}#{uuid4()}")
    try:
        with open(part, "xb", opener=private) as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path, offset: int, length: int | None, block: int) -> Iterator[bytes]:
    left = length if length is not None else sys.maxsize
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while left and (piece := file.read(min(left, block))):
            left -= len(piece)
            yield piece
    if length is not None and left:
        raise _cut(path.name, offset + length)


def packed(entries: list[Entry]) -> bytes:
    """Return a manifest as it is stored."""
    return msgspec.msgpack.encode(entries)


def unpacked(data: bytes | bytearray) -> list[Entry]:
    return _manifest.decode(data)


def range_of(blob: str, offset: int, length: int) -> str:
    """Return the name of the range of a blob that starts at `offset` and has `length` bytes."""
    return f"{blob}@{offset}+{length}"


def place_of(name: str) -> tuple[str, int, int | None]:
    """Split a name that `range_of` made into blob, offset and length.

    For the name of a whole blob, the offset is 0 and the length None.
    """
    blob, _, part = name.partition("@")
    if not part:
        return blob, 0, None
    offset, _, length = part.partition("+")
    return blob, int(offset), int(length)


def _created_with(path: Path, root: Path) -> Iterator[Path]:
    """Yield the folders that may have been created with a blob, up to the root."""
    for parent in path.parents:
        yield parent
        if parent == root:
            return


def _files(folder: str | Path) -> Iterator[tuple[str, datetime]]:
    """Yield the files below a folder, and when they were written. Skips files that vanish."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
                continue
            with suppress(FileNotFoundError):
                written_at = entry.stat(follow_symlinks=False).st_mtime
                yield entry.path, datetime.fromtimestamp(written_at, UTC)
