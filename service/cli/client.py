"""A client of Haulier's own HTTP API.

ApiError             each says in one line what is wrong and what to do; `exit` is the status for it
├── Refused          the API answered, and it will not do this as it is asked
└── Unavailable      no answer, or one that says that the API is in trouble: try again later
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit
from uuid import UUID

import httpx
import msgspec

from service.cli.documents import (
    Account,
    Batch,
    Delivery,
    Document,
    Failure,
    Job,
    Page,
    Problem,
    ProblemDocument,
    Request,
    Status,
    UsageReport,
)
from service.cli.exits import Exit
from service.cli.place import Place

T = TypeVar("T")

PAGE = 200
JSONL = "application/x-ndjson"

_TIMEOUT = httpx.Timeout(30)
# The answer to a submission comes when all of it is checked and stored.
_SUBMIT_TIMEOUT = httpx.Timeout(60, read=600)


class ApiError(Exception):
    """The API did not do what was asked."""

    exit = Exit.UNAVAILABLE


class Unavailable(ApiError):
    """Try again later."""


class Refused(ApiError):
    """Asking again changes nothing."""

    exit = Exit.REFUSED

    def __init__(
        self, message: str, *, status: int, problems: list[Problem] | None = None, more: int = 0
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problems = problems or []
        self.more = more
        """Problems that the API has found beyond those it lists."""


@dataclass(frozen=True)
class Envelope:
    """A batch spec but for its requests. None: the API's default."""

    endpoint: str
    account: str | None = None
    max_attempts: int | None = None
    priority: int | None = None
    metadata: str | None = None
    """A JSON object."""


@dataclass(frozen=True)
class Submitted:
    """A job, and whether it is a new one or that of an earlier submission."""

    job: Document[Job]
    new: bool


@dataclass(frozen=True)
class Download:
    """A body on its way. `length` in bytes, None where the API does not tell."""

    length: int | None
    etag: str | None
    """Names exactly these bytes, of which a later request can ask for the rest."""
    blocks: Iterator[bytes]


class Client:
    """Talks to one API. Every method raises ApiError."""

    def __init__(self, place: Place, *, timeout: float | None = None) -> None:
        """`timeout` in seconds of each answer but that to a submission."""
        self._place = place
        token = {"Authorization": f"Bearer {place.token}"} if place.token else {}
        try:
            host = urlsplit(place.url).hostname
            self._http = httpx.Client(
                base_url=place.url,
                headers={"User-Agent": "haulier", **token},
                timeout=timeout or _TIMEOUT,
                # Certificates take a while to read; over plain HTTP there are none.
                verify=place.url.startswith("https:"),
                # A proxy would look for its own self at this address.
                trust_env=host not in {"127.0.0.1", "::1", "localhost"},
            )
        except UnicodeEncodeError:
            raise Refused(f"{place.source}: holds what no token has in it", status=0) from None
        except (ValueError, httpx.InvalidURL) as error:
            raise Refused(f"HAULIER_URL: {place.url!r} is no URL ({error})", status=0) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit_lines(
        self,
        blocks: Iterable[bytes],
        envelope: Envelope,
        *,
        length: int | None,
        idempotency_key: str | None = None,
    ) -> Submitted:
        """Stream JSONL. `length` in bytes, None where nobody knows."""
        query = {
            "endpoint": envelope.endpoint,
            "account": envelope.account,
            "max_attempts": envelope.max_attempts,
            "priority": envelope.priority,
            "metadata": envelope.metadata,
        }
        headers = {"Content-Type": JSONL}
        if length is not None:
            headers["Content-Length"] = str(length)
        return self._submit(blocks, query, headers, idempotency_key)

    def submit_spec(self, spec: bytes, *, idempotency_key: str | None = None) -> Submitted:
        """Send a batch spec as JSON."""
        return self._submit(spec, {}, {"Content-Type": "application/json"}, idempotency_key)

    def _submit(
        self,
        content: bytes | Iterable[bytes],
        query: dict[str, Any],
        headers: dict[str, str],
        idempotency_key: str | None,
    ) -> Submitted:
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        with self._errors():
            response = self._http.post(
                "/v1/jobs",
                content=content,
                params={name: value for name, value in query.items() if value is not None},
                headers=headers,
                timeout=_SUBMIT_TIMEOUT,
            )
        self._check(response)
        return Submitted(self._document(response.content, Job), response.status_code == 201)

    def job(self, job_id: UUID) -> Document[Job]:
        return self._document(self._get(f"/v1/jobs/{job_id}"), Job)

    def jobs(self, *, limit: int | None = None, **filters: Any) -> Iterator[Document[Job]]:
        """Newest first; at most `limit`. `filters` are query parameters of the list."""
        return self._list("/v1/jobs", Job, limit=limit, filters=filters)

    def batches(self, job_id: UUID) -> Iterator[Document[Batch]]:
        """By shard."""
        return self._list(f"/v1/jobs/{job_id}/batches", Batch)

    def failures(self, job_id: UUID) -> Iterator[Document[Failure]]:
        """In input order."""
        return self._list(f"/v1/jobs/{job_id}/failures", Failure)

    def deliveries(self, job_id: UUID) -> Iterator[Document[Delivery]]:
        """Oldest first."""
        return self._list(f"/v1/jobs/{job_id}/deliveries", Delivery)

    def redeliver(self, job_id: UUID, delivery_id: UUID) -> Document[Delivery]:
        """Send a notice again."""
        with self._errors():
            response = self._http.post(f"/v1/jobs/{job_id}/deliveries/{delivery_id}/redeliver")
        self._check(response)
        return self._document(response.content, Delivery)

    def request(self, job_id: UUID, custom_id: str) -> Document[Request]:
        """One request of a job."""
        # Dots are escaped, too: a path of `..` would lead somewhere else.
        name = quote(custom_id, safe="").replace(".", "%2E")
        return self._document(self._get(f"/v1/jobs/{job_id}/requests/{name}"), Request)

    def accounts(self) -> Iterator[Document[Account]]:
        return self._list("/v1/accounts", Account)

    def status(self) -> Document[Status]:
        return self._document(self._get("/v1/status"), Status)

    def usage(self, *, since: str | None, until: str | None, by: str) -> Document[UsageReport]:
        query = {"from": since, "to": until, "by": by}
        return self._document(self._get("/v1/usage", query), UsageReport)

    def cancel(self, job_id: UUID) -> Document[Job]:
        with self._errors():
            response = self._http.post(f"/v1/jobs/{job_id}/cancel")
        self._check(response)
        return self._document(response.content, Job)

    def retry(self, job_id: UUID, custom_ids: list[str] | None) -> Document[Job]:
        """Run failed requests again: those named, or all."""
        body = {} if custom_ids is None else {"custom_ids": custom_ids}
        with self._errors():
            response = self._http.post(f"/v1/jobs/{job_id}/retry", json=body)
        self._check(response)
        return self._document(response.content, Job)

    def items(self, path: str, kind: type[T]) -> Iterator[Document[T]]:
        """All of the list at this path."""
        return self._list(path, kind)

    def send(
        self, method: str, path: str, kind: type[T], body: dict[str, Any] | None = None
    ) -> Document[T]:
        """What the API answers to this."""
        with self._errors():
            response = self._http.request(method, path, json=body)
        self._check(response)
        return self._document(response.content, kind)

    def delete(self, path: str) -> None:
        with self._errors():
            response = self._http.delete(path)
        self._check(response)

    @contextmanager
    def results(
        self,
        job_id: UUID,
        *,
        partial: bool = False,
        only: str | None = None,
        start: int = 0,
        etag: str | None = None,
    ) -> Iterator[Download]:
        """The result lines in input order, from a byte on of those that the ETag names.

        What ends without an error is whole. The lines of one outcome (`only`) have no ranges.
        """
        query = {"partial": "true"} if partial else {}
        if only is not None:
            query["only"] = only
        path = f"/v1/jobs/{job_id}/results"
        # Compressed they would come without their length, and mostly over no long way.
        headers = {"Accept-Encoding": "identity"}
        if start and etag is not None:
            headers |= {"Range": f"bytes={start}-", "If-Range": etag}
        with (
            self._errors(),
            self._http.stream("GET", path, params=query, headers=headers) as response,
        ):
            if response.is_error:
                response.read()
            self._check(response)
            if start and response.status_code != 206:
                raise Refused("the job has new results by now: fetch them anew", status=200)
            # Something in between may have compressed it all the same.
            is_plain = "content-encoding" not in response.headers
            length = response.headers.get("content-length") if is_plain else None
            yield Download(
                None if length is None else int(length),
                response.headers.get("etag") if is_plain and only is None else None,
                response.iter_bytes(),
            )

    def _list(
        self,
        path: str,
        kind: type[T],
        *,
        limit: int | None = None,
        filters: Mapping[str, Any] | None = None,
    ) -> Iterator[Document[T]]:
        """Every item, page by page."""
        left, cursor = limit, None
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            query = {**(filters or {}), "limit": size, "cursor": cursor}
            page = self._read(self._get(path, query), Page)
            for raw in page.data[:left]:
                yield self._document(bytes(raw), kind)
            left = None if left is None else left - len(page.data)
            cursor = page.next_cursor
            if cursor is None:
                return

    def _get(self, path: str, query: dict[str, Any] | None = None) -> bytes:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        with self._errors():
            response = self._http.get(path, params=given)
        self._check(response)
        return response.content

    def _document(self, content: bytes, kind: type[T]) -> Document[T]:
        value = self._read(content, kind)
        return Document(msgspec.json.format(content, indent=-1).decode(), value)

    def _read(self, content: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._stranger(str(error)) from None

    def _stranger(self, what: str) -> Unavailable:
        return Unavailable(
            f"what answers at {self._place.url} does not speak as Haulier's API does ({what});"
            " does HAULIER_URL name the right place?"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Give the transport's errors as our own."""
        url = self._place.url
        try:
            yield
        except httpx.ConnectError as error:
            raise Unavailable(
                f"cannot reach the API at {url} ({error}): start it with `haulier up`,"
                " or set HAULIER_URL to where it is"
            ) from None
        except httpx.TimeoutException:
            raise Unavailable(f"the API at {url} did not answer in time: try again") from None
        except httpx.TransportError as error:
            raise Unavailable(
                f"the connection to the API at {url} broke ({error}): try again"
            ) from None

    def _check(self, response: httpx.Response) -> None:
        """Raise what an answer that is no success says. Its body has been read."""
        status = response.status_code
        if response.is_success:
            return
        try:
            problem = msgspec.json.decode(response.content, type=ProblemDocument)
        except (msgspec.DecodeError, UnicodeDecodeError):
            problem = ProblemDocument()
        problems = problem.problems or []
        # The details of several problems repeat the first; it stands in the list.
        said = problem.title if len(problems) > 1 else problem.detail or problem.title
        if status == 401:
            raise Refused(self._no_entry(), status=status)
        if status >= 500:
            reason = said or response.reason_phrase
            raise Unavailable(f"the API at {self._place.url} is in trouble ({status}: {reason})")
        if not said:
            raise self._stranger(f"{status} {response.reason_phrase}")
        raise Refused(said, status=status, problems=problems, more=problem.more or 0)

    def _no_entry(self) -> str:
        if self._place.token is None:
            return f"the API at {self._place.url} wants a token: set HAULIER_TOKEN"
        return f"the API at {self._place.url} does not take the token of {self._place.source}"
