"""The calls of Together's Files and Batch API.

The client never repeats a call: the stages and the runner decide whether to try again. The one
exception is a download, which continues where its connection was cut.
"""

import gzip
import hashlib
import shutil
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from datetime import timedelta
from os import SEEK_END
from tempfile import TemporaryFile
from typing import IO, Any
from urllib.parse import quote, urljoin
from uuid import UUID

import httpx
import structlog

from service.rules.errors import (
    AccountBlocked,
    Broken,
    RateLimited,
    Refused,
    Transient,
    Unreachable,
)
from service.together.transport import Pool, checked, decoded, parsed, translated
from service.together.wire import (
    File,
    ProviderBatch,
    read_batches,
    read_created,
    read_file,
)

log = structlog.get_logger()

BLOCK = 1 << 18
UNPACKED_BYTES = 10_000_000_000
"""The most that a file may unpack to, for whoever does not say it."""
GZIP = b"\x1f\x8b"
"""The first bytes of a gzip file."""
RESUMES = 8
"""How many cuts in a row a download survives without receiving a new byte."""


class Together:
    """One account at Together.

    Every method raises Transient, RateLimited, QueueFull, AccountBlocked or Refused (Missing for
    a 404).
    `gate` runs before each call except those that carry the bytes of a file. It may wait, and
    raises Transient if the wait would be too long.
    """

    def __init__(
        self,
        pool: Pool,
        base_url: str,
        api_key: str,
        *,
        gate: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = pool
        self._base = f"{base_url}/v1"
        self._auth = {"Authorization": f"Bearer {api_key}"}
        self._gate = gate

    def take_turn(self) -> None:
        """Wait until a create may be sent; `create` itself sends at once.

        Call this first, and check the lease in between, since the wait may be long.
        """
        self._gate()

    def check_key(self) -> None:
        """Ask for a batch that does not exist. Raises AccountBlocked if the key is refused."""
        with suppress(Refused):
            self._get(f"/batches/{UUID(int=0)}")

    # --- files -----------------------------------------------------------------------------

    def upload(self, filename: str, size: int, content: Callable[[], Iterator[bytes]]) -> File:
        """Upload a batch input of `size` bytes. A redirect calls `content` again.

        No checksum is sent, so that every upload makes a new file whose id identifies its batch.
        """
        # Take the turn of the preprocess call first. Without one, the bytes would be sent in vain.
        self._gate()
        location, file_id = self._begin_upload(filename)
        self._put(location, size, content)
        with translated():
            response = self._pool.post(
                f"{self._base}/files/{_quoted(file_id)}/preprocess", headers=self._auth
            )
        file = decoded(checked(response), read_file)
        if file.bytes is not None and file.bytes != size:
            raise Transient(f"Together holds {file.bytes} of the {size} bytes of file {file.id}")
        return file

    def _begin_upload(self, filename: str) -> tuple[str, str]:
        fields = {"purpose": "batch-api", "file_name": filename, "file_type": "jsonl"}
        parts = {name: (None, value) for name, value in fields.items()}
        response = self._call("POST", "/files", files=parts)
        location = response.headers.get("location")
        file_id = response.headers.get("x-together-file-id")
        if response.status_code == 302 and location and file_id:
            return urljoin(str(response.url), location), file_id
        checked(response)
        raise Transient(
            f"Together answered an upload with {response.status_code} instead of an upload URL"
        )

    def _put(self, url: str, size: int, content: Callable[[], Iterator[bytes]]) -> None:
        """Send the bytes to object storage, which must never see the API key."""
        for _ in range(5):
            with translated():
                response = self._pool.put(
                    url,
                    content=_exactly(size, content()),
                    headers={"Content-Length": str(size)},
                )
            if response.status_code not in {301, 302, 303, 307, 308}:
                break
            url = urljoin(url, response.headers.get("location", ""))
        if not response.is_success:
            # A rejected presigned URL says nothing about the account: the next try starts over.
            raise Transient(f"object storage answered {response.status_code}")

    def file(self, file_id: str) -> File:
        return decoded(self._get(f"/files/{_quoted(file_id)}"), read_file)

    def delete_file(self, file_id: str) -> None:
        """Delete a file. Does nothing if it is already gone."""
        response = self._call("DELETE", f"/files/{_quoted(file_id)}")
        if response.status_code != 404:
            checked(response)

    def download(
        self,
        file_id: str,
        to: IO[bytes],
        progress: Callable[[], None],
        most: int = UNPACKED_BYTES,
    ) -> bool:
        """Write a file's content to `to` (empty, seekable), decompressed.

        Raises Broken if it unpacks to more than `most` bytes.

        After a cut, continues with Range, or starts over if the server ignores Range. Returns
        whether the content is whole: its size is what Together says, or two downloads are equal
        if Together does not say one. `progress` runs after each block.
        """
        expected = self._size(file_id)
        download = _Download(to, file_id, most)
        self._download_whole(file_id, download, progress)
        whole = True
        if expected is not None:
            whole = expected in {download.received, download.size}
        else:
            # They would hardly be cut at the same byte.
            first = _sha256(to)
            download.restart()
            self._download_whole(file_id, download, progress)
            whole = _sha256(to) == first
        if not whole:
            log.warning("file_not_whole", file_id=file_id, bytes=download.size, expected=expected)
        download.inflate(progress)
        return whole

    def _size(self, file_id: str) -> int | None:
        """Return the size of a file. Its content may be there even if its object is not."""
        try:
            return self.file(file_id).bytes
        except (Refused, Transient) as error:
            log.warning("file_object_unavailable", file_id=file_id, reason=str(error))
            return None

    def _download_whole(
        self, file_id: str, download: "_Download", progress: Callable[[], None]
    ) -> None:
        """Download to the end. Continue after cuts for as long as there is progress."""
        stalled = furthest = 0
        while True:
            try:
                self._download_from(file_id, download, progress)
            except Unreachable as error:
                if isinstance(error, RateLimited | AccountBlocked):
                    raise
                # Compare with the furthest byte: if Range is ignored, each download starts at 0.
                stalled = 0 if download.size > furthest else stalled + 1
                furthest = max(furthest, download.size)
                if stalled >= RESUMES:
                    raise
            else:
                return

    def _download_from(
        self, file_id: str, download: "_Download", progress: Callable[[], None]
    ) -> None:
        if download.encoded:
            download.restart()  # a range of compressed bytes is of no use
        start = download.size
        headers = {**self._auth, "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            translated(),
            self._pool.stream(
                "GET",
                f"{self._base}/files/{_quoted(file_id)}/content",
                headers=headers,
                follow_redirects=True,  # httpx drops Authorization if the host changes
            ) as response,
        ):
            if response.status_code == 416:
                return  # nothing is left to send; `download` checks the size
            if not response.is_success:
                response.read()
            checked(response)
            at = f"bytes {start}-"
            if start and not (
                response.status_code == 206
                and response.headers.get("content-range", "").startswith(at)
            ):
                download.restart()
            encoding = response.headers.get("content-encoding", "").strip().lower()
            download.encoded = encoding not in {"", "identity"}
            before = download.received
            for block in response.iter_bytes() if download.encoded else response.iter_raw():
                download.write(block, unpacked=download.encoded)
                download.received = before + response.num_bytes_downloaded
                progress()

    # --- batches ---------------------------------------------------------------------------

    def create(
        self, endpoint: str, input_file_id: str, *, within: timedelta
    ) -> ProviderBatch | None:
        """Create a batch. Returns None if Together accepts it without returning it.

        The call takes at most `within`, which its phases share. Call `take_turn` first.
        There is no idempotency key: repeating the call after a Transient whose `sent` is True may
        buy the batch twice.
        """
        body = {
            "endpoint": endpoint,
            "input_file_id": input_file_id,
            "completion_window": "24h",
        }
        phases = httpx.Timeout(within.total_seconds() / 4)  # pool, connect, write, read
        sent_by = time.monotonic() + within.total_seconds() / 2

        def not_late(event: str, _: object) -> None:
            # httpx does not bound the look-up of a name, and bounds each of its addresses alone.
            if event.endswith("send_request_headers.started") and time.monotonic() > sent_by:
                raise httpx.ConnectTimeout("connecting took too long")

        with translated():
            response = self._pool.post(
                f"{self._base}/batches",
                headers=self._auth,
                json=body,
                timeout=phases,
                extensions={"trace": not_late},
            )
        return read_created(parsed(checked(response)))

    def batch(self, batch_id: str) -> ProviderBatch:
        """Return a batch. Raises Transient if the answer is about another one."""
        batch = decoded(self._get(f"/batches/{_quoted(batch_id)}"), read_created)
        if batch.id != batch_id:
            raise Transient(f"Together answered with batch {batch.id} instead of {batch_id}")
        return batch

    def batches(self, ids: Collection[str] | None = None) -> list[ProviderBatch]:
        """Return every batch of the account, or those with these ids, in no reliable order.

        A new batch may be missing for a while.
        """
        found, odd = decoded(self._get("/batches"), lambda data: read_batches(data, ids))
        if odd:
            log.warning("list_has_illegible_entries", entries=odd)
        return found

    def cancel(self, batch_id: str) -> None:
        """Ask Together to cancel a batch. Does nothing if it has already ended."""
        response = self._call("POST", f"/batches/{_quoted(batch_id)}/cancel")
        if response.status_code != 409:
            checked(response)

    def _get(self, path: str) -> httpx.Response:
        return checked(self._call("GET", path))

    def _call(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Wait for a turn, then call the API."""
        self._gate()
        with translated():
            return self._pool.request(method, f"{self._base}{path}", headers=self._auth, **content)


def _quoted(name: str) -> str:
    """Return an id as a segment of a URL's path."""
    return quote(name, safe="")


def _exactly(size: int, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the blocks. Raises Broken unless they add up to `size` bytes."""
    sent = 0
    for block in blocks:
        sent += len(block)
        if sent > size:
            break
        yield block
    if sent != size:
        more = " or more" if sent > size else ""
        raise Broken(f"the input to upload has {sent}{more} bytes instead of {size}")


class _Download:
    """Where the content of a file is written to, and how much of it has come."""

    def __init__(self, to: IO[bytes], file_id: str, most: int) -> None:
        self.to = to
        self._file_id = file_id
        self._most = most
        self.received = 0
        """Bytes that came over the wire, which are fewer than `size` if it was compressed."""
        self.encoded = False

    @property
    def size(self) -> int:
        return self.to.tell()

    def write(self, block: bytes, *, unpacked: bool) -> None:
        if unpacked:
            self._check(self.size + len(block))
        self.to.write(block)

    def _check(self, size: int) -> None:
        if size > self._most:
            raise Broken(
                f"the file {self._file_id} unpacks to more than {self._most:,} bytes; if that is"
                " plausible, raise HAULIER_UNPACKED_BYTES"
            )

    def restart(self) -> None:
        self.to.seek(0)
        self.to.truncate()
        self.received = 0

    def inflate(self, progress: Callable[[], None]) -> None:
        """Decompress the content in place if it is a gzip file. Leave it alone if it is broken."""
        self.to.seek(0)
        is_gzip = self.to.read(2) == GZIP
        self.to.seek(0, SEEK_END)
        if not is_gzip:
            return
        self.to.seek(0)
        with TemporaryFile() as plain:
            try:
                with gzip.GzipFile(fileobj=self.to) as packed:
                    while block := packed.read(BLOCK):
                        self._check(plain.tell() + len(block))
                        plain.write(block)
                        progress()
            except (EOFError, OSError, zlib.error):
                self.to.seek(0, SEEK_END)
                return
            plain.seek(0)
            self.restart()
            shutil.copyfileobj(plain, self.to)


def _sha256(file: IO[bytes]) -> bytes:
    """Return the SHA-256 of the whole file, and leave the file at its end."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.digest()
