"""Together's Files and Batch API. The only place that knows its wire format.

Nothing here repeats a request by itself: whether to try again is decided by the row. The one
exception is a download, which goes on from where it was cut.
"""

import hashlib
import ssl
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import IO, Any, TypeVar
from urllib.parse import urljoin

import httpx
import msgspec

from config import VERSION
from service.rules.errors import (
    AccountBlocked,
    Missing,
    RateLimited,
    Refused,
    Transient,
    Unreachable,
)

USER_AGENT = f"haulier/{VERSION}"
"""Together's proxy answers some default user agents with 403 (TOGETHER_API)."""
T = TypeVar("T")

BLOCK = 1 << 18
RESUMES = 8
"""How many cuts in a row without a new byte a download survives."""

_ENDED = frozenset({"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"})
# A full queue over there is backpressure, whatever status it comes with.
_FULL = ("queue is full", "enqueued tokens", "enqueued token limit", "too many batches")
_SPELLINGS = {"CANCELED": "CANCELLED", "CANCELING": "CANCELLING"}


class File(msgspec.Struct, frozen=True):
    """A file that Together holds. `bytes` is None where it did not say."""

    id: str
    bytes: int | None = None
    filename: str | None = None


class _Job(msgspec.Struct, gc=False):
    """A batch as Together shows it. A list of an account's may have tens of thousands."""

    id: str
    status: str
    input_file_id: str | None = None
    progress: float | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    error: Any = None
    created_at: str | None = None


class _Created(msgspec.Struct):
    job: _Job | None = None
    warning: Any = None


@dataclass(frozen=True)
class ProviderBatch:
    """A batch at Together. `status` is in upper case, with one spelling for each meaning."""

    id: str
    status: str
    input_file_id: str | None
    progress: float | None
    output_file_id: str | None
    error_file_id: str | None
    error: str | None
    created_at: str | None

    @property
    def ended(self) -> bool:
        """Whether the status is terminal. An unknown status is not."""
        return self.status in _ENDED

    @property
    def without_files(self) -> bool:
        return self.output_file_id is None and self.error_file_id is None


Pool = httpx.Client
"""The connections of one process."""


@cache
def trust() -> ssl.SSLContext:
    """The certificates to believe. To be called before a fork as well: reading them takes a while,
    and every process would do it anew."""
    return httpx.create_ssl_context()


def open_pool(timeout: timedelta) -> Pool:
    """To be called after a fork. `timeout` bounds each wait (connect, write, read)."""
    return httpx.Client(
        verify=trust(),
        timeout=httpx.Timeout(timeout.total_seconds(), connect=min(10, timeout.total_seconds())),
        limits=httpx.Limits(max_connections=16, max_keepalive_connections=8),
        headers={"User-Agent": USER_AGENT},
        follow_redirects=False,
    )


class Together:
    """One account at Together.

    Every method raises Transient, RateLimited, AccountBlocked or Refused (Missing for a 404).
    `gate` is called before each call of the control API, that is before all but the bytes of
    uploads and downloads: it may wait, and raises Transient where that would take too long.
    """

    def __init__(
        self,
        pool: httpx.Client,
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
        """Wait until a create may be sent. Whoever creates must come here before, and look at its
        lease after: `create` itself sends at once."""
        self._gate()

    # --- files -----------------------------------------------------------------------------

    def upload(self, filename: str, size: int, content: Callable[[], Iterator[bytes]]) -> File:
        """Upload a batch input of `size` bytes; `content` is called again where it is redirected.

        No checksum is sent: then every upload is a file of its own, whose id finds its batch.
        """
        # The turn of the call behind the bytes as well: for want of one they would go in vain.
        self._gate()
        location, file_id = self._begin_upload(filename)
        self._put(location, size, content)
        with _translated():
            response = self._pool.post(
                f"{self._base}/files/{file_id}/preprocess", headers=self._auth
            )
        file = _decode(_checked(response), File)
        if file.bytes is not None and file.bytes != size:
            raise Transient(f"Together holds {file.bytes} bytes of {size} of file {file.id}")
        return file

    def _begin_upload(self, filename: str) -> tuple[str, str]:
        fields = {"purpose": "batch-api", "file_name": filename, "file_type": "jsonl"}
        parts = {name: (None, value) for name, value in fields.items()}
        response = self._call("POST", "/files", files=parts)
        location = response.headers.get("location")
        file_id = response.headers.get("x-together-file-id")
        if response.status_code == 302 and location and file_id:
            return urljoin(str(response.url), location), file_id
        _checked(response)
        raise Transient(f"Together answered an upload with {response.status_code}, not a place")

    def _put(self, url: str, size: int, content: Callable[[], Iterator[bytes]]) -> None:
        """To object storage, which must never see the key."""
        for _ in range(5):
            with _translated():
                response = self._pool.put(
                    url,
                    content=_exactly(size, content()),
                    headers={"Content-Length": str(size)},
                )
            if response.status_code not in {301, 302, 303, 307, 308}:
                break
            url = urljoin(url, response.headers.get("location", ""))
        if not response.is_success:
            # A refused presigned URL says nothing about the account: begin anew.
            raise Transient(f"object storage answered {response.status_code}")

    def file(self, file_id: str) -> File:
        return _decode(self._get(f"/files/{file_id}"), File)

    def delete_file(self, file_id: str) -> None:
        """Delete a file; one that is gone already is fine."""
        response = self._call("DELETE", f"/files/{file_id}")
        if response.status_code != 404:
            _checked(response)

    def download(self, file_id: str, to: IO[bytes], progress: Callable[[], None]) -> int:
        """Write a file's content to `to` (empty, seekable) and return its size in bytes.

        Whole or not at all: goes on with Range after a cut where that is honoured, else begins
        anew, and compares the size with what Together says. `progress` is called at each block.
        """
        expected = self.file(file_id).bytes
        self._download_whole(file_id, to, progress)
        size = to.tell()
        if expected is None:
            # Nothing to hold it against but itself: whatever was cut is not cut twice alike.
            first = _sha256(to)
            to.seek(0)
            to.truncate()
            self._download_whole(file_id, to, progress)
            if _sha256(to) != first:
                raise Transient(f"file {file_id} of unknown size came in two versions")
        elif size != expected:
            raise Transient(f"file {file_id} came with {size} bytes instead of {expected}")
        return size

    def _download_whole(self, file_id: str, to: IO[bytes], progress: Callable[[], None]) -> None:
        """Until it ends by itself, going on after cuts for as long as there is progress."""
        stalled = furthest = 0
        while True:
            try:
                self._download_from(file_id, to, progress)
            except Unreachable as error:
                if isinstance(error, RateLimited | AccountBlocked):
                    raise
                # Held against the furthest point, since where Range is ignored each goes from 0.
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
            _translated(),
            self._pool.stream(
                "GET",
                f"{self._base}/files/{file_id}/content",
                headers=headers,
                follow_redirects=True,  # httpx drops Authorization towards another host
            ) as response,
        ):
            if response.status_code == 416:
                return  # nothing is left to send; the size will tell
            if not response.is_success:
                response.read()
            _checked(response)
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
        """Create a batch; None where Together took it without showing it.

        The request is on its way for at most `within`: its phases share it. See `take_turn`.
        There is no idempotency key. Whoever repeats this after a Transient whose `sent` is True
        may buy the batch twice.
        """
        body = {
            "endpoint": endpoint,
            "input_file_id": input_file_id,
            "completion_window": "24h",
        }
        phases = httpx.Timeout(within.total_seconds() / 4)  # pool, connect, write, read
        with _translated():
            response = self._pool.post(
                f"{self._base}/batches", headers=self._auth, json=body, timeout=phases
            )
        created = _decode(_checked(response), _Created)
        return None if created.job is None else _batch(created.job)

    def batch(self, batch_id: str) -> ProviderBatch:
        return _batch(_decode(self._get(f"/batches/{batch_id}"), _Job))

    def batches(self, ids: Collection[str] | None = None) -> list[ProviderBatch]:
        """Every batch of the account (or those with these ids), in no reliable order.

        A new one may be late.
        """
        response = self._get("/batches")
        if response.content.strip() == b"null":  # an account without any
            return []
        jobs = _decode(response, list[_Job])
        return [_batch(job) for job in jobs if ids is None or job.id in ids]

    def cancel(self, batch_id: str) -> None:
        """Ask for a batch to be cancelled; one that has ended already is fine."""
        response = self._call("POST", f"/batches/{batch_id}/cancel")
        if response.status_code != 409:
            _checked(response)

    def _get(self, path: str) -> httpx.Response:
        return _checked(self._call("GET", path))

    def _call(self, method: str, path: str, **content: Any) -> httpx.Response:
        """A call of the control API, when its turn has come."""
        self._gate()
        with _translated():
            return self._pool.request(method, f"{self._base}{path}", headers=self._auth, **content)


def _exactly(size: int, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks. Raises Transient where they do not keep the length that was announced."""
    sent = 0
    for block in blocks:
        sent += len(block)
        if sent > size:
            break
        yield block
    if sent != size:
        more = " or more" if sent > size else ""
        raise Transient(f"the input to upload has {sent}{more} bytes instead of {size}")


# --- from the wire to words ----------------------------------------------------------------------


@contextmanager
def _translated() -> Iterator[None]:
    """Turn httpx's errors into ours. Connecting is the one part after which nothing was sent."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise Transient(f"cannot reach Together: {_name(error)}", sent=False) from error
    except httpx.HTTPError as error:
        raise Transient(f"the connection to Together failed: {_name(error)}") from error
    except httpx.InvalidURL as error:
        raise Transient(f"Together sent an address that is none: {error}") from error


def _sha256(file: IO[bytes]) -> bytes:
    """Over all of the file; leaves it at its end."""
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.digest()


def _name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _checked(response: httpx.Response) -> httpx.Response:
    """The response, if it is a success. Else an error named for what to do about it."""
    if response.is_success:
        return response
    status = response.status_code
    words = _words(response)
    message = f"{status} {words or _unworded(response)}"
    full = status < 500 and any(sign in message.lower() for sign in _FULL)
    if status == 429 or full:
        raise RateLimited(message, wait=_wait(response))
    if status in {401, 402, 403}:
        raise AccountBlocked(message, spending=status == 402)
    if words is None:
        # Not Together's own word but that of something in between: it settles nothing.
        raise Transient(message)
    if status == 404:
        raise Missing(message, status=status)
    if 400 <= status < 500 and status != 408:
        raise Refused(message, status=status)
    raise Transient(message)


def _words(response: httpx.Response) -> str | None:
    """What Together says went wrong, in either of its shapes; None where it is not Together's."""
    try:
        body = msgspec.json.decode(response.content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        error = error.get("message")
    return _text(error, 1000) if error else None


def _unworded(response: httpx.Response) -> str:
    kind = response.headers.get("content-type", "no content type")
    return f"{response.reason_phrase} ({kind})"


def _text(words: object, most: int) -> str:
    """Together's words, as far as a text column takes them."""
    return str(words).replace("\x00", "\ufffd")[:most]


def _wait(response: httpx.Response) -> timedelta | None:
    """How long a 429 asks to wait. `Retry-After` as a date is not worth parsing: None."""
    for header in ("x-ratelimit-reset", "retry-after"):
        try:
            seconds = float(response.headers[header])
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < 86_400:
            return timedelta(seconds=seconds)
    return None


def _decode(response: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Transient(f"cannot read Together's answer: {error}") from error


def _batch(job: _Job) -> ProviderBatch:
    status = _text(job.status, 100).upper()
    return ProviderBatch(
        id=job.id,
        status=_SPELLINGS.get(status, status),
        input_file_id=job.input_file_id,
        progress=job.progress,
        output_file_id=job.output_file_id or None,
        error_file_id=job.error_file_id or None,
        error=None if job.error is None else _text(job.error, 2000),
        created_at=job.created_at,
    )
