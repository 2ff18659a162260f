"""Blob storage: a folder or an S3 bucket. A blob is written once under a fresh name, never changed.

A blob becomes true when a row commits its name. What no row names may be deleted.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import msgspec
import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from service.rules.work import Entry

if TYPE_CHECKING:
    from obstore import GetOptions

BLOCK = 1 << 20
LIST_PAGE = 1000  # what S3 lists, and deletes, at once
PART = 8 << 20  # S3 takes parts of 5 MB and more; two at a time bound a writer's memory

STORAGE_ERRORS = (BaseError,)
"""What blob storage raises beside OSError (FileNotFoundError and PermissionError are its own)."""

_manifest = msgspec.msgpack.Decoder(list[Entry])


class Writer(Protocol):
    """Takes the bytes of a blob. `size` is where in the blob the next ones will stand."""

    name: str

    @property
    def size(self) -> int: ...

    def write(self, data: bytes) -> None: ...


class Destination(Protocol):
    """Where requests can be taken in to: blob storage, or what will go there as a whole."""

    def writer(self, name: str) -> AbstractContextManager[Writer]: ...

    def put_manifest(self, name: str, entries: list[Entry]) -> str: ...

    def get_manifest(self, name: str) -> list[Entry]: ...


class BlobWriter:
    """Writes one blob. Knows its name, and how many bytes it has taken."""

    def __init__(self, name: str, write: Callable[[bytes], object]) -> None:
        self.name = name
        self._write = write
        self.size = 0

    def write(self, data: bytes) -> None:
        self._write(data)
        self.size += len(data)


class Blobs:
    """The blob storage behind a URL (`file:///…` or `s3://…`).

    Not to be opened before a fork: its client has threads of its own.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self.url = url
        parts = urlsplit(url)
        self._root: Path | None = None
        self._store: ObjectStore
        if parts.scheme == "file":
            self._root = Path(unquote(parts.path))
            self._store = LocalStore(self._root, mkdir=create)
        else:
            self._store = from_url(url)

    @contextmanager
    def writer(self, name: str) -> Iterator[BlobWriter]:
        """Write a blob piece by piece. It is durable when the block is left."""
        if self._root is not None:
            with _whole(self._root / name) as local:
                yield BlobWriter(name, local.write)
        else:
            file = obstore.open_writer(self._store, name, buffer_size=PART, max_concurrency=2)
            yield BlobWriter(name, file.write)
            file.close()
        self._sync(name)

    def put(self, name: str, data: bytes) -> None:
        """Write a small blob at once."""
        obstore.put(self._store, name, data, use_multipart=False)
        self._sync(name)

    def get(self, name: str) -> bytes:
        """A whole small blob. Raises FileNotFoundError."""
        return bytes(obstore.get(self._store, name).bytes())

    def stream(
        self, name: str, offset: int = 0, length: int | None = None, *, block: int = BLOCK
    ) -> Iterator[bytes]:
        """The bytes of a blob, or of a range of it, in blocks of about `block` bytes."""
        if length == 0:
            return
        if self._root is not None:
            yield from _read(self._root / name, offset, length, block)
            return
        if length is None:
            options: GetOptions = {"range": {"offset": offset}} if offset else {}
        else:
            options = {"range": (offset, offset + length)}
        found = obstore.get(self._store, name, options=options)
        for piece in found.stream(min_chunk_size=block):
            yield bytes(piece)

    def size(self, name: str) -> int:
        """Bytes of a blob. Raises FileNotFoundError."""
        return int(obstore.head(self._store, name)["size"])

    def put_manifest(self, name: str, entries: list[Entry]) -> str:
        """Store a manifest, and return what `get_manifest` finds it by."""
        self.put(name, packed(entries))
        return name

    def get_manifest(self, name: str) -> list[Entry]:
        """A manifest that is a blob of its own or a part of one (`part_of`)."""
        blob, offset, length = place_of(name)
        if length is None:
            return unpacked(self.get(blob))
        return unpacked(b"".join(self.stream(blob, offset, length)))

    def older(self, prefix: str, before: datetime) -> Iterator[list[str]]:
        """The names below a prefix (`jobs/`) of blobs that were written before then, in pages.

        Read from the listing as it goes on: however many there are, one page is held. A page may
        be deleted before the next is asked for. On a disk, what writers that died have left is
        among them.
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
        """Whether something below a prefix was written since then."""
        return any(written_at >= since for _, written_at in self._listed(prefix))

    def delete(self, names: Sequence[str]) -> None:
        """Delete blobs, and folders with the last that is in them. What is gone already is fine."""
        if self._root is None:
            obstore.delete(self._store, names)
            return
        for name in names:
            path = self._root / name
            path.unlink(missing_ok=True)
            # Not the folder of all jobs: somebody may be about to make another one there.
            with suppress(OSError):  # up to the first that holds something else
                for folder in path.parents[: max(0, name.count("/") - 1)]:
                    folder.rmdir()

    def delete_under(self, prefix: str, before: datetime) -> None:
        """Delete what was written below a prefix before then."""
        for page in self.older(prefix, before):
            self.delete(page)

    def _listed(self, prefix: str) -> Iterator[tuple[str, datetime]]:
        """Names below a prefix that ends in a slash, and when they were written."""
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
        """On a local disk, a blob must survive a power cut before a row may name it."""
        if self._root is None:
            return
        path = self._root / name
        for target in (path, *_created_with(path, self._root)):
            fd = os.open(target, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


# Local files are written and read plainly: through obstore it would take several times the CPU,
# which passes them on in pieces of 8 kB.


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file that has its name only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}#{uuid4()}")
    try:
        with part.open("xb") as file:
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


def packed(entries: list[Entry]) -> bytes:
    """A manifest as it is stored."""
    return msgspec.msgpack.encode(entries)


def unpacked(data: bytes | bytearray) -> list[Entry]:
    return _manifest.decode(data)


def part_of(blob: str, offset: int, length: int) -> str:
    """The name of `length` bytes of a blob from `offset` on."""
    return f"{blob}@{offset}+{length}"


def place_of(name: str) -> tuple[str, int, int | None]:
    """The blob that `part_of` named, with offset and length; None is its end."""
    blob, _, part = name.partition("@")
    if not part:
        return blob, 0, None
    offset, _, length = part.partition("+")
    return blob, int(offset), int(length)


def _created_with(path: Path, root: Path) -> Iterator[Path]:
    """The folders that a blob's name may have brought into being, up to the root."""
    for parent in path.parents:
        yield parent
        if parent == root:
            return


def _files(folder: str | Path) -> Iterator[tuple[str, datetime]]:
    """The files below a folder, and when they were written; passes over what goes away."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
                continue
            with suppress(FileNotFoundError):
                written_at = entry.stat(follow_symlinks=False).st_mtime
                yield entry.path, datetime.fromtimestamp(written_at, UTC)
