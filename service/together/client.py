"""The calls of Together's Files and Batch API.

The client never repeats a call: the stages and the runner decide whether to try again. The one
exception is a download, which continues where its connection was cut.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator
from datetime import timedelta
from typing import IO, Any
from urllib.parse import urljoin

import httpx

from service.rules.errors import AccountBlocked, RateLimited, Transient, Unreachable
from service.together.transport import Pool, checked, decoded, translated
from service.together.wire import BatchObject, Created, File, ProviderBatch, provider_batch

BLOCK = 1 << 18
RESUMES = 8
"""How many cuts in a row a download survives without receiving a new byte."""


class Together:
    """One account at Together.

    Every method raises Transient, RateLimited, AccountBlocked or Refused (Missing for a 404).
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
                f"{self._base}/files/{file_id}/preprocess", headers=self._auth
            )
        file = decoded(checked(response), File)
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
        return decoded(self._get(f"/files/{file_id}"), File)

    def delete_file(self, file_id: str) -> None:
        """Delete a file. Does nothing if it is already gone."""
        response = self._call("DELETE", f"/files/{file_id}")
        if response.status_code != 404:
            checked(response)

    def download(self, file_id: str, to: IO[bytes], progress: Callable[[], None]) -> int:
        """Write a file's content to `to` (empty, seekable) and return its size in bytes.

        After a cut, continues with Range, or starts over if the server ignores Range. Raises
        Transient unless the size is what Together says. `progress` runs after each block.
        """
        expected = self.file(file_id).bytes
        self._download_whole(file_id, to, progress)
        size = to.tell()
        if expected is None:
            # Without a size, compare two downloads: they would hardly be cut at the same byte.
            first = _sha256(to)
            to.seek(0)
            to.truncate()
            self._download_whole(file_id, to, progress)
            if _sha256(to) != first:
                raise Transient(
                    f"two downloads of file {file_id} differ, and Together does not say its size"
                )
        elif size != expected:
            raise Transient(f"file {file_id} arrived with {size} bytes instead of {expected}")
        return size

    def _download_whole(self, file_id: str, to: IO[bytes], progress: Callable[[], None]) -> None:
        """Download to the end. Continue after cuts for as long as there is progress."""
        stalled = furthest = 0
        while True:
            try:
                self._download_from(file_id, to, progress)
            except Unreachable as error:
                if isinstance(error, RateLimited | AccountBlocked):
                    raise
                # Compare with the furthest byte: if Range is ignored, each download starts at 0.
                stalled = 0 if to.tell() > furthest else stalled + 1
                furthest = max(furthest, to.tell())
                if stalled >= RESUMES:
                    raise
            else:
                return

    def _download_from(self, file_id: str, to: IO[bytes], progress: Callable[[], None]) -> None:
        start = to.tell()
        headers = {**self._auth, "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            translated(),
            self._pool.stream(
                "GET",
                f"{self._base}/files/{file_id}/content",
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
                to.seek(0)
                to.truncate()
            for block in response.iter_raw():
                to.write(block)
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
        with translated():
            response = self._pool.post(
                f"{self._base}/batches", headers=self._auth, json=body, timeout=phases
            )
        created = decoded(checked(response), Created)
        return None if created.job is None else provider_batch(created.job)

    def batch(self, batch_id: str) -> ProviderBatch:
        return provider_batch(decoded(self._get(f"/batches/{batch_id}"), BatchObject))

    def batches(self, ids: Collection[str] | None = None) -> list[ProviderBatch]:
        """Return every batch of the account, or those with these ids, in no reliable order.

        A new batch may be missing for a while.
        """
        response = self._get("/batches")
        if response.content.strip() == b"null":  # an account without any
            return []
        jobs = decoded(response, list[BatchObject])
        return [provider_batch(job) for job in jobs if ids is None or job.id in ids]

    def cancel(self, batch_id: str) -> None:
        """Ask Together to cancel a batch. Does nothing if it has already ended."""
        response = self._call("POST", f"/batches/{batch_id}/cancel")
        if response.status_code != 409:
            checked(response)

    def _get(self, path: str) -> httpx.Response:
        return checked(self._call("GET", path))

    def _call(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Wait for a turn, then call the API."""
        self._gate()
        with translated():
            return self._pool.request(method, f"{self._base}{path}", headers=self._auth, **content)


def _exactly(size: int, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the blocks. Raises Transient unless they add up to `size` bytes."""
    sent = 0
    for block in blocks:
        sent += len(block)
        if sent > size:
            break
        yield block
    if sent != size:
        more = " or more" if sent > size else ""
        raise Transient(f"the input to upload has {sent}{more} bytes instead of {size}")


def _sha256(file: IO[bytes]) -> bytes:
    """Return the SHA-256 of the whole file, and leave the file at its end."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.digest()
