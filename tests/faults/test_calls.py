"""The API is killed and replaced while calls wait: each is answered, and none is bought twice."""

import asyncio
import threading
from collections import Counter
from collections.abc import Coroutine
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from openai import AsyncOpenAI
from together import AsyncTogether

from service.store import jobs
from tests.api import TOKEN, started_url
from tests.eventually import eventually
from tests.factories import MODEL
from tests.pipeline import Pipeline
from tests.processes import Processes, Running
from tests.simulator import Simulator

REPEATS = 30
"""Enough for the time in which nothing listens, however slow the machine is."""


class Callers:
    """Clients of both SDKs, each with one call. Of every four, two ask the same."""

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self._count = count
        self.answers: list[str] = []
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))

    @property
    def expected(self) -> Counter[str]:
        return Counter(f"echo: {self._words(n)}" for n in range(self._count))

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(timeout=240)

    @staticmethod
    def _words(number: int) -> str:
        return "the same" if number % 4 < 2 else f"number {number}"

    async def _all(self) -> None:
        # A connection that takes longer is given up before the call was sent. Its repeat would
        # share the answer of another one that asks the same.
        timeout = httpx.Timeout(60, connect=300)
        options: dict[str, Any] = {"api_key": TOKEN, "max_retries": REPEATS, "timeout": timeout}
        pool = httpx.Limits(max_connections=None)
        async with (
            AsyncOpenAI(base_url=f"{self._url}/openai/v1", **options) as openai,
            httpx.AsyncClient(limits=pool, timeout=timeout, trust_env=False) as http,
        ):
            together = AsyncTogether(
                base_url=f"{self._url}/together/v1", http_client=http, **options
            )
            sdks: tuple[Any, Any] = (openai, together)
            made = (self._one(sdks[n % 2], self._words(n)) for n in range(self._count))
            await asyncio.gather(*(self._noted(call) for call in made))

    async def _one(self, sdk: Any, words: str) -> str:
        messages = [{"role": "user", "content": words}]
        answer = await sdk.chat.completions.create(model=MODEL, messages=messages)
        return str(answer.choices[0].message.content)

    async def _noted(self, call: Coroutine[Any, Any, str]) -> None:
        try:
            self.answers.append(await call)
        except Exception as error:  # noqa: BLE001  the test says which
            self.errors.append(error)


def api(processes: Processes, port: int) -> Running:
    process = processes.haulier("api", "--port", str(port))
    started_url(process)
    return process


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_client_gets_its_answer_although_the_api_is_killed_and_replaced(
    pipeline: Pipeline, processes: Processes, simulator: Simulator, count: int
) -> None:
    def held() -> int:
        with pipeline.db.begin() as session:
            query = "SELECT count(*) FROM haulier.calls JOIN haulier.attendants ON id = attendant"
            return int(session.connection().exec_driver_sql(query).scalar_one())

    process = processes.haulier("api", "--port", "0")
    url = started_url(process)
    port = urlsplit(url).port or 0
    callers = Callers(url, count)
    callers.start()
    eventually(lambda: held() == count, timeout=120)
    process.kill()
    with pipeline.db.begin() as session:  # as a while later
        session.connection().exec_driver_sql("DELETE FROM haulier.attendants")

    process = api(processes, port)
    eventually(lambda: held() == count, timeout=120)
    assert process.stop() == 0

    process = api(processes, port)
    eventually(lambda: held() == count, timeout=120)
    pipeline.scheduler()
    pipeline.worker()
    callers.join()

    assert callers.errors == []
    assert Counter(callers.answers) == callers.expected
    found = jobs.jobs(pipeline.db, producer="default", calls=True, limit=count + 1)
    assert len(found) == count
    assert simulator.books().totals.duplicate_successes == 0
    assert process.alive
