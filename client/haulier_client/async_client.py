"""The client for asyncio."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from decimal import Decimal
from typing import Any, Self, TypeVar

import httpx

from haulier_client import calls, gathering, plans
from haulier_client.client import JobId, options
from haulier_client.errors import Unavailable
from haulier_client.plans import Call, Plan, Requests
from haulier_client.progress import Seen, following
from haulier_client.reading import Reading
from haulier_client.views import Failure, Job, Result, read_failure, read_job

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio. Its `submit` takes asynchronous iterators, too."""

    def __init__(self, url: str, token: str | None) -> None:
        self._http = httpx.AsyncClient(**options(url, token))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def submit(
        self,
        requests: Requests | AsyncIterable[dict[str, Any]],
        *,
        endpoint: str = "/v1/chat/completions",
        model: str | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Job:
        """See Client.submit."""
        again = plans.is_there_again(requests)
        fields |= {"endpoint": endpoint}
        return await self._run(
            plans.submit(
                lambda: plans.async_blocks(requests, model),
                fields,
                again=again,
                key=idempotency_key,
            )
        )

    async def submit_spec(self, spec: dict[str, Any]) -> Job:
        return await self._run(plans.submit_spec(spec))

    async def job(self, job: JobId) -> Job:
        return await self._run(plans.show(job))

    async def jobs(self, **filters: Any) -> AsyncIterator[Job]:
        async for shown in self._list("/v1/jobs", filters):
            yield read_job(shown)

    async def failures(self, job: JobId) -> AsyncIterator[Failure]:
        async for shown in self._list(f"/v1/jobs/{plans.id_of(job)}/failures", {}):
            yield read_failure(shown)

    async def cancel(self, job: JobId) -> Job:
        return await self._run(plans.cancel(job))

    async def release(self, job: JobId, max_cost: float | str | Decimal | None = None) -> Job:
        """Let the rest of a job go that its `canary` holds, or give it a new `max_cost` (USD)."""
        return await self._run(plans.release(job, max_cost))

    async def retry(self, job: JobId, custom_ids: Iterable[str] | None = None) -> Job:
        return await self._run(plans.retry(job, custom_ids))

    async def wait(self, job: JobId, timeout: float | None = None, poll: float = 5.0) -> Job:
        return await self._run(plans.wait(job, timeout, poll))

    def results(self, job: JobId) -> AsyncIterator[Result]:
        """See Client.results."""
        return self._results(Reading(job))

    async def call(
        self,
        body: dict[str, Any],
        *,
        endpoint: str = "/v1/chat/completions",
        idempotency_key: str | None = None,
    ) -> Result:
        """See Client.call."""
        return await self._run(calls.call(body, endpoint, idempotency_key))

    async def gather(
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
        """See Client.gather."""
        requests = gathering.requests(bodies)
        if not requests:
            return []
        fields |= {"endpoint": endpoint, "model": model, "idempotency_key": idempotency_key}
        job = await self.submit(requests, **fields)
        with following(job, progress) as seen:
            await self._run(gathering.ended(job, poll, seen))
            reading = Reading(job, pauses=gathering.PATIENT_PAUSES)
            return [result async for result in self._results(reading)]

    async def _results(self, reading: Reading) -> AsyncIterator[Result]:
        while not reading.done:
            try:
                async with self._http.stream(**reading.arguments()) as response:
                    if not response.is_success:
                        await response.aread()
                    reading.begin(response)
                    async for block in response.aiter_raw():
                        for result in reading.feed(block):
                            yield result
                    reading.end()
            except (httpx.TransportError, Unavailable) as error:
                await asyncio.sleep(reading.pause(error))

    async def _list(self, path: str, params: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        following: dict[str, Any] | None = params
        while following is not None:
            rows, following = await self._run(plans.page_of(path, following))
            for row in rows:
                yield row

    async def _run(self, plan: Plan[T]) -> T:
        given: httpx.Response | httpx.TransportError | None = None
        while True:
            try:
                step = plan.send(given)
            except StopIteration as end:
                result: T = end.value
                return result
            given = await self._do(step)

    async def _do(self, step: Call | float) -> httpx.Response | httpx.TransportError | None:
        if not isinstance(step, Call):
            await asyncio.sleep(step)
            return None
        try:
            return await self._http.request(**step.arguments())
        except httpx.TransportError as error:
            return error
