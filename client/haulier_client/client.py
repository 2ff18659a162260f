"""The client for ordinary code."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Self, TypeVar
from uuid import UUID

import httpx

from haulier_client import calls, gathering, plans
from haulier_client.errors import Unavailable
from haulier_client.plans import Call, Plan, Requests
from haulier_client.progress import Seen, following
from haulier_client.reading import Reading
from haulier_client.views import Failure, Job, Result, read_failure, read_job

T = TypeVar("T")
JobId = Job | UUID | str


def options(url: str, token: str | None) -> dict[str, Any]:
    """The arguments of both kinds of HTTP client. Raises ValueError for a URL that is none."""
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL as error:
        raise ValueError(str(error)) from None
    authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
    return {
        "base_url": url,
        "headers": {**authorization, "User-Agent": "haulier-client"},
        # Reading the certificates takes a while, and plain HTTP needs none.
        "verify": url.startswith("https:"),
        # Each call that waits for its answer holds one.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
        # A proxy would look for this address on its own machine.
        "trust_env": host not in {"127.0.0.1", "::1", "localhost"},
    }


class Client:
    """Talks to one API with one token. Close it, or use it as a context manager.

    Raises ValueError if `url` is not a URL.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self._http = httpx.Client(**options(url, token))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(
        self,
        requests: Requests,
        *,
        endpoint: str = "/v1/chat/completions",
        model: str | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """Stream requests (`custom_id` and `body`), in constant memory.

        `model` is for bodies that name none; `fields` are those of the batch spec: `account`,
        `max_attempts`, `priority`, `metadata`, `notify`, `check`, `canary`, `canary_failures`,
        `max_cost`, `deadline` (a datetime or a timedelta, too), `on_deadline`. What can be gone
        through again, such as a list, is sent again when the connection breaks, under a key that
        is made for it where none is given. An iterator is sent once: after `Unreachable`, only with
        an `idempotency_key` is it safe to submit the same again.
        """
        again = plans.is_there_again(requests)
        fields |= {"endpoint": endpoint}
        return self._run(
            plans.submit(
                lambda: plans.blocks(requests, model), fields, again=again, key=idempotency_key
            )
        )

    def submit_spec(self, spec: dict[str, Any]) -> Job:
        """Submit a batch spec of up to 32 MB, with its requests or its `input`."""
        return self._run(plans.submit_spec(spec))

    def job(self, job: JobId) -> Job:
        """How a job stands."""
        return self._run(plans.show(job))

    def jobs(self, **filters: Any) -> Iterator[Job]:
        """Jobs, newest first: those that `GET /v1/jobs` finds with these filters (`state`, …)."""
        return map(read_job, self._list("/v1/jobs", filters))

    def failures(self, job: JobId) -> Iterator[Failure]:
        """The requests that failed for good, in input order."""
        return map(read_failure, self._list(f"/v1/jobs/{plans.id_of(job)}/failures", {}))

    def cancel(self, job: JobId) -> Job:
        """Ask for a job to be cancelled; what is done stays."""
        return self._run(plans.cancel(job))

    def release(self, job: JobId, max_cost: float | str | Decimal | None = None) -> Job:
        """Let the rest of a job go that its `canary` holds, or give it a new `max_cost` (USD)."""
        return self._run(plans.release(job, max_cost))

    def retry(self, job: JobId, custom_ids: Iterable[str] | None = None) -> Job:
        """Run failed requests of a finished job again: those named, or all."""
        return self._run(plans.retry(job, custom_ids))

    def wait(self, job: JobId, timeout: float | None = None, poll: float = 5.0) -> Job:
        """The job once it has ended, looked at every `poll` seconds. Raises WaitTimeout."""
        return self._run(plans.wait(job, timeout, poll))

    def results(self, job: JobId) -> Iterator[Result]:
        """One result for each request, in input order; goes on where a connection broke off.

        Raises Conflict before the job has ended.
        """
        return self._results(Reading(job))

    def call(
        self,
        body: dict[str, Any],
        *,
        endpoint: str = "/v1/chat/completions",
        idempotency_key: str | None = None,
    ) -> Result:
        """Make one ordinary call through Haulier, and wait for its answer: minutes, or hours.

        Several at once share a provider batch; for many, `gather` needs fewer connections. The
        call is repeated under a key until it is answered, so it is bought once. Pass an
        `idempotency_key` of your own to find the answer again from another process, for a day.
        The `custom_id` of the result is the id of the call's job. Raises ProblemError if the call
        is refused, or has failed after all attempts.
        """
        return self._run(calls.call(body, endpoint, idempotency_key))

    def gather(
        self,
        bodies: Iterable[dict[str, Any]],
        *,
        endpoint: str = "/v1/chat/completions",
        model: str | None = None,
        idempotency_key: str | None = None,
        progress: bool | Seen = True,
        poll: float = 2.0,
        **fields: Any,
    ) -> list[Result]:
        """Answer many calls as one job: one result for each body, in their order.

        The calls share provider batches, connections and an idempotency key; without
        `idempotency_key` the client makes one, so repeats within it never buy twice. With one, a
        script that is run again finds the job that is there. `fields` are those of `submit`.

        `progress` is a bar on standard error, or what is told of the job every `poll` seconds. The
        API may be away for ten minutes meanwhile. Whatever ends the waiting, the job goes on.
        Raises Conflict if the job was rejected or has failed as a whole.
        """
        requests = gathering.requests(bodies)
        if not requests:
            return []
        fields |= {"endpoint": endpoint, "model": model, "idempotency_key": idempotency_key}
        job = self.submit(requests, **fields)
        with following(job, progress) as seen:
            self._run(gathering.ended(job, poll, seen))
            return list(self._results(Reading(job, pauses=gathering.PATIENT_PAUSES)))

    def _results(self, reading: Reading) -> Iterator[Result]:
        while not reading.done:
            try:
                with self._http.stream(**reading.arguments()) as response:
                    if not response.is_success:
                        response.read()
                    reading.begin(response)
                    for block in response.iter_raw():
                        yield from reading.feed(block)
                    reading.end()
            except (httpx.TransportError, Unavailable) as error:
                time.sleep(reading.pause(error))

    def result_blocks(
        self,
        job: JobId,
        *,
        params: Mapping[str, Any] | None = None,
        pauses: Sequence[float] = plans.PAUSES,
        opened: Callable[[int | None], None] = lambda _: None,
    ) -> Iterator[bytes]:
        """Yield the bytes of `GET …/results`; go on where a connection broke off.

        `params` are those of the endpoint (`partial`, `only`), `pauses` the seconds to wait after
        breaks in a row. `opened` is told the bytes of the whole, or None if the API does not say.
        """
        reading = Reading(job, params, pauses)
        begun = False
        while not reading.done:
            try:
                with self._http.stream(**reading.arguments()) as response:
                    if not response.is_success:
                        response.read()
                    reading.begin(response)
                    if not begun:
                        opened(reading.length)
                        begun = True
                    for block in response.iter_bytes():
                        yield reading.count(block)
                    reading.end()
            except (httpx.TransportError, Unavailable) as error:
                time.sleep(reading.pause(error))

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterable[bytes] | None = None,
        timeout: float | None = None,
        repeatable: bool = False,
    ) -> httpx.Response:
        """Make any call of the HTTP API, for what has no method here. `timeout` in seconds.

        `repeatable` says that the call may be sent again if the connection breaks.
        """
        return self._run(
            plans.request(
                method,
                path,
                params=params,
                headers=headers,
                content=content,
                timeout=timeout,
                repeatable=repeatable,
            )
        )

    def _list(self, path: str, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        following: dict[str, Any] | None = params
        while following is not None:
            rows, following = self._run(plans.page_of(path, following))
            yield from rows

    def _run(self, plan: Plan[T]) -> T:
        given: httpx.Response | httpx.TransportError | None = None
        while True:
            try:
                step = plan.send(given)
            except StopIteration as end:
                result: T = end.value
                return result
            given = self._do(step)

    def _do(self, step: Call | float) -> httpx.Response | httpx.TransportError | None:
        if not isinstance(step, Call):
            time.sleep(step)
            return None
        try:
            return self._http.request(**step.arguments())
        except httpx.TransportError as error:
            return error
