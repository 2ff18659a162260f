"""A database that has grown for years: what is looked at, listed, claimed and found due there."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from hashlib import md5
from http.client import HTTPConnection
from urllib.parse import quote, urlsplit
from uuid import UUID

import msgspec

from service.rules.outcomes import Wait
from service.rules.states import Stage
from service.store import engine
from service.store.claim import claim_batches
from service.store.due import dispatch
from service.store.models import Batch
from tests import factories
from tests.api import TOKEN
from tests.bench.deployment import Deployment, open_deployment
from tests.bench.figures import Row, Section, shown
from tests.bench.size import Size
from tests.integration.store.test_queries import OPEN, WAITING, fill

FEW = 10_000
ROUNDS = 300
WARM_UP = 20
"""Calls before the first that counts: statements are prepared, plans made, caches filled."""

Work = Callable[[], object]
EVENTS = """
INSERT INTO haulier.events (batch_id, source, target)
  SELECT md5('batch' || n)::uuid, 'created', 'ended'
  FROM generate_series(1, :finished) n, generate_series(2, 10)
"""


@dataclass(frozen=True)
class Times:
    """Milliseconds."""

    p50: float
    p99: float

    def __str__(self) -> str:
        return f"{shown(self.p50)} / {shown(self.p99)}"


def measure(size: Size) -> Section:
    few, many = FEW, size.finished
    with _filled(few) as small, _filled(many) as large:
        times = {name: _timed(small[name], large[name]) for name in large}
    return Section(
        [
            Row(
                f"{name}, p50 / p99 with {many:,} finished jobs",
                str(after),
                "ms",
                wanted="flat",
                beside=f"with {few:,}: {before} ms",
            )
            for name, (before, after) in times.items()
        ],
        notes=f"Each finished job has 10 events; {OPEN} jobs run, {OPEN} wait to be read, and"
        f" {WAITING:,} parts wait for a batch."
        " Both databases stand side by side and are asked in turn.",
    )


@contextmanager
def _filled(finished: int) -> Iterator[dict[str, Work]]:
    """What is timed, by name, in a deployment with so many finished jobs."""
    pick = random.Random(1)
    with open_deployment(parts=("api",)) as deployment:
        fill(deployment.environment["DATABASE_URL"], more=EVENTS, finished=finished)
        with _connection(deployment) as connection, _store(deployment) as store:
            yield {
                "GET /v1/jobs/{id}": lambda: _get(
                    connection, f"/v1/jobs/{_id('job', pick.randint(1, finished))}"
                ),
                "GET /v1/jobs, first page": lambda: _get(connection, "/v1/jobs?limit=50"),
                "GET /v1/jobs, pages further on": _Pages(connection).next,
                "claim a batch and give it back": partial(_claim, store),
                "what is due (5 batches)": lambda: dispatch(
                    store.db, Batch, frozenset({Stage.FETCH}), limit=5, again=timedelta(0)
                ),
            }


class _Pages:
    """Walks on from page to page."""

    def __init__(self, connection: HTTPConnection) -> None:
        self._connection = connection
        self._cursor: str | None = None

    def next(self) -> None:
        cursor = f"&cursor={quote(self._cursor)}" if self._cursor else ""
        page = msgspec.json.decode(_get(self._connection, f"/v1/jobs?limit=50{cursor}"))
        self._cursor = page["next_cursor"]


def _timed(*works: Work) -> tuple[Times, ...]:
    """The times of each, called in turn."""
    taken: list[list[float]] = [[] for _ in works]
    for number in range(WARM_UP + ROUNDS):
        for work, times in zip(works, taken, strict=True):
            started = time.perf_counter()
            work()
            if number >= WARM_UP:
                times.append((time.perf_counter() - started) * 1000)
    ordered = map(sorted, taken)
    return tuple(Times(times[ROUNDS // 2], times[ROUNDS * 99 // 100]) for times in ordered)


def _claim(store: factories.Harness) -> None:
    batch_id = _id("open", 3)
    (claim,) = claim_batches(store.db, [batch_id], Stage.FETCH, factories.LEASE)
    store.apply(claim, Wait(timedelta(0)))


def _id(word: str, number: int) -> UUID:
    return UUID(md5(f"{word}{number}".encode()).hexdigest())


def _get(connection: HTTPConnection, path: str) -> bytes:
    connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    return content


@contextmanager
def _connection(deployment: Deployment) -> Iterator[HTTPConnection]:
    """Kept alive; http.client, for what the client takes is measured too."""
    place = urlsplit(str(deployment.http.base_url))
    assert place.hostname is not None
    connection = HTTPConnection(place.hostname, place.port, timeout=60)
    yield connection
    connection.close()


@contextmanager
def _store(deployment: Deployment) -> Iterator[factories.Harness]:
    made = engine.create(deployment.environment["DATABASE_URL"])
    yield factories.Harness(engine.database(made))
    made.dispose()
