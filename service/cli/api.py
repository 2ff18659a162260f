"""The API's answers as documents that the command line shows, over `haulier_client`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Self, TypeVar
from urllib.parse import quote
from uuid import UUID

import msgspec
from haulier_client import Client, HaulierError, NotHaulier, ProblemError, Unreachable

from service.cli.documents import (
    Account,
    Batch,
    Causes,
    Delivery,
    Document,
    Failure,
    Job,
    JobUsage,
    Lane,
    Page,
    Preview,
    Process,
    Request,
    Status,
    UsageReport,
)
from service.cli.place import Place
from service.cli.screen import escaped
from service.cli.top.documents import Overview

T = TypeVar("T")

PAGE = 200
PAUSE = 0.5
"""Seconds before a download that broke off goes on."""
BREAKS = 600
"""The most breaks in a row without a byte between them: with PAUSE, five minutes."""


@dataclass(frozen=True)
class Envelope:
    """A batch spec without its requests. None: the API's default."""

    endpoint: str
    account: str | None = None
    max_attempts: int | None = None
    priority: int | None = None
    metadata: str | None = None
    """A JSON object."""
    check: str | None = None
    """A word, or JSON."""
    canary: int | None = None
    canary_failures: int | None = None
    max_cost: str | None = None
    """USD."""
    deadline: str | None = None
    on_deadline: str | None = None


@dataclass(frozen=True)
class Submitted:
    """A job, and whether it is new or that of an earlier submission."""

    job: Document[Job]
    new: bool


class Rehearsed(Exception):
    """A verb was not done, because this is a dry run: what it would change."""

    def __init__(self, preview: Document[Preview]) -> None:
        super().__init__("a dry run")
        self.preview = preview


class Api:
    """One API. Every method raises `haulier_client.HaulierError`.

    Calls are not repeated: a person sees at once that the API is away.
    """

    def __init__(
        self, place: Place, *, timeout: float | None = None, dry_run: bool = False
    ) -> None:
        """`timeout` in seconds, of each answer. Raises ValueError for a bad URL or token.

        In a `dry_run`, what would change something raises Rehearsed instead.
        """
        self._dry_run = dry_run
        self.place = place
        self._client = Client(place.url, place.token)
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def submit_lines(
        self,
        blocks: Iterable[bytes],
        envelope: Envelope,
        *,
        length: int | None,
        idempotency_key: str | None = None,
    ) -> Submitted:
        """Stream JSONL. `length` in bytes, or None if it is not known beforehand."""
        headers = {"Content-Type": "application/x-ndjson"}
        if length is not None:
            headers["Content-Length"] = str(length)
        return self._submit(blocks, vars(envelope), headers, idempotency_key)

    def submit_spec(self, spec: bytes, *, idempotency_key: str | None = None) -> Submitted:
        """Send a batch spec as JSON."""
        return self._submit(spec, {}, {"Content-Type": "application/json"}, idempotency_key)

    def _submit(
        self,
        content: bytes | Iterable[bytes],
        params: Mapping[str, Any],
        headers: dict[str, str],
        idempotency_key: str | None,
    ) -> Submitted:
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        answer = self._client.request(
            "POST", "/v1/jobs", params=params, headers=headers, content=content
        )
        return Submitted(_document(answer.content, Job), answer.status_code == 201)

    def job(self, job_id: UUID) -> Document[Job]:
        return self.send("GET", f"/v1/jobs/{job_id}", Job)

    def jobs(self, *, limit: int | None = None, **filters: Any) -> Iterator[Document[Job]]:
        """Jobs, newest first, at most `limit`. `filters` are query parameters of the list."""
        return self.items("/v1/jobs", Job, limit=limit, filters=filters)

    def batches(self, job_id: UUID) -> Iterator[Document[Batch]]:
        """A job's batches by shard."""
        return self.items(f"/v1/jobs/{job_id}/batches", Batch)

    def failures(self, job_id: UUID) -> Iterator[Document[Failure]]:
        """A job's failed requests in input order."""
        return self.items(f"/v1/jobs/{job_id}/failures", Failure)

    def causes(self, job_id: UUID) -> Document[Causes]:
        """What a job's failed requests have in common."""
        return self.send("GET", f"/v1/jobs/{job_id}/causes", Causes)

    def errors(self, *, since: str | None, until: str | None, limit: int) -> Document[Causes]:
        """What failed for good lately, grouped by cause."""
        params = {"since": since, "until": until, "limit": limit}
        return self.send("GET", "/v1/errors", Causes, params=params)

    def deliveries(self, job_id: UUID) -> Iterator[Document[Delivery]]:
        """A job's notices, oldest first."""
        return self.items(f"/v1/jobs/{job_id}/deliveries", Delivery)

    def redeliver(self, job_id: UUID, delivery_id: UUID) -> Document[Delivery]:
        """Send a notice again."""
        return self.send("POST", f"/v1/jobs/{job_id}/deliveries/{delivery_id}/redeliver", Delivery)

    def request(self, job_id: UUID, custom_id: str) -> Document[Request]:
        """One request of a job."""
        # Dots are escaped as well: a path of `..` would lead somewhere else.
        name = quote(custom_id, safe="").replace(".", "%2E")
        return self.send("GET", f"/v1/jobs/{job_id}/requests/{name}", Request)

    def accounts(self) -> Iterator[Document[Account]]:
        return self.items("/v1/accounts", Account)

    def account(self, name: str, verb: str, reason: str | None = None) -> Document[Account]:
        """`pause` (with a reason), `resume` or `probe` an account."""
        body = None if reason is None else {"reason": reason}
        return self.send("POST", f"/v1/accounts/{quote(name, safe='')}/{verb}", Account, body)

    def lanes(self) -> Iterator[Document[Lane]]:
        return self.items("/v1/lanes", Lane)

    def lane(self, lane_id: str, verb: str) -> Document[Lane]:
        """`pause`, `resume` or `probe` a lane."""
        return self.send("POST", f"/v1/lanes/{lane_id}/{verb}", Lane)

    def process(self, process_id: str, verb: str) -> Document[Process]:
        """`drain` or `resume` a process."""
        return self.send("POST", f"/v1/processes/{quote(process_id, safe='')}/{verb}", Process)

    def status(self) -> Document[Status]:
        return self.send("GET", "/v1/status", Status)

    def overview(self) -> Document[Overview]:
        """What needs a person, and what is under way."""
        return self.send("GET", "/v1/overview", Overview)

    def usage(self, *, since: str | None, until: str | None, by: str) -> Document[UsageReport]:
        params = {"from": since, "to": until, "by": by}
        return self.send("GET", "/v1/usage", UsageReport, params=params)

    def job_usage(self, job_id: UUID) -> Document[JobUsage]:
        """What a job's settled batches used."""
        return self.send("GET", f"/v1/jobs/{job_id}/usage", JobUsage)

    def cancel(self, job_id: UUID) -> Document[Job]:
        return self.send("POST", f"/v1/jobs/{job_id}/cancel", Job)

    def retry(
        self,
        job_id: UUID,
        custom_ids: list[str] | None,
        *,
        cause: str | None = None,
        limit: int | None = None,
    ) -> Document[Job]:
        """Retry failed requests: those named, those of a cause (at most `limit`), or all."""
        named = {"custom_ids": custom_ids, "cause": cause, "limit": limit}
        body = {name: value for name, value in named.items() if value is not None}
        return self.send("POST", f"/v1/jobs/{job_id}/retry", Job, body)

    def release(self, job_id: UUID, max_cost: str | None) -> Document[Job]:
        body = {} if max_cost is None else {"max_cost": max_cost}
        return self.send("POST", f"/v1/jobs/{job_id}/release", Job, body)

    def abandon(self, job_id: UUID, requests: str) -> Document[Job]:
        """Give up the parked batches of a job: their requests are `dead`, or go `again`."""
        return self.send("POST", f"/v1/jobs/{job_id}/abandon", Job, {"requests": requests})

    def results(
        self,
        job_id: UUID,
        *,
        partial: bool = False,
        only: str | None = None,
        opened: Callable[[int | None], None] = lambda _: None,
    ) -> Iterator[bytes]:
        """Yield the result lines in input order, in blocks, through breaks of the connection.

        `opened` is told the bytes of all of them, or None if the API does not say.
        """
        params = {"partial": "true" if partial else None, "only": only}
        pauses = tuple(repeat(PAUSE, BREAKS))
        return self._client.result_blocks(job_id, params=params, pauses=pauses, opened=opened)

    def send(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: dict[str, Any] | None = None,
        *,
        params: Mapping[str, Any] | None = None,
    ) -> Document[T]:
        """Make a call and return the document that answers it."""
        if self._dry_run and method != "GET":
            trial = {**(params or {}), "dry_run": "true"}
            raise Rehearsed(_document(self._content(method, path, body, trial), Preview))
        return _document(self._content(method, path, body, params), kind)

    def delete(self, path: str) -> None:
        if self._dry_run:
            self.send("DELETE", path, Preview)
        self._content("DELETE", path, None, None)

    def items(
        self,
        path: str,
        kind: type[T],
        *,
        limit: int | None = None,
        filters: Mapping[str, Any] | None = None,
    ) -> Iterator[Document[T]]:
        """Yield every item of a list, page by page."""
        left, cursor = limit, None
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            params = {**(filters or {}), "limit": size, "cursor": cursor}
            page = _read(self._content("GET", path, None, params), Page)
            for raw in page.data[:left]:
                yield _document(bytes(raw), kind)
            left = None if left is None else left - len(page.data)
            cursor = page.next_cursor
            if cursor is None:
                return

    def _content(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        params: Mapping[str, Any] | None,
    ) -> bytes:
        content = None if body is None else msgspec.json.encode(body)
        headers = None if body is None else {"Content-Type": "application/json"}
        answer = self._client.request(
            method, path, params=params, headers=headers, content=content, timeout=self._timeout
        )
        return answer.content


def is_away(error: HaulierError) -> bool:
    """Whether the API cannot be reached or is in trouble itself, so that waiting may help."""
    if isinstance(error, ProblemError):
        return error.status >= 500
    return isinstance(error, Unreachable | NotHaulier)


def _document(content: bytes, kind: type[T]) -> Document[T]:
    value = _read(content, kind)
    return Document(escaped(msgspec.json.format(content, indent=-1).decode()), value)


def _read(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotHaulier(str(error)) from None
