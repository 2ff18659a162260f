"""Calls that wait: what they weigh in the API, what it asks meanwhile, and how soon they end."""

import asyncio
import resource
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec
import psycopg

from tests.api import TOKEN
from tests.bench.corpus import MODEL, prose
from tests.bench.deployment import Deployment, open_deployment
from tests.bench.figures import Row, Section, shown
from tests.bench.resident import peak_mb, resident_mb
from tests.bench.size import Size
from tests.eventually import eventually

PATH = "/together/v1/chat/completions"
LOOKED = 20
"""Seconds for which the queries are counted."""
AT_ONCE = 200
"""Connections that are opened at the same moment."""


@dataclass
class _Clients:
    """Clients that make a call each, on a connection of its own, all from this machine."""

    url: str
    count: int
    answered: dict[str, float] = field(default_factory=dict)
    """When each was answered, by the job."""
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._room = asyncio.Semaphore(AT_ONCE)
        self.thread = threading.Thread(target=lambda: asyncio.run(self._all()))
        self.thread.start()

    async def _all(self) -> None:
        await asyncio.gather(*(self._call(number) for number in range(self.count)))

    async def _call(self, number: int) -> None:
        where = urlsplit(self.url)
        message = {"role": "user", "content": prose(2000, number)}
        body = msgspec.json.encode({"model": MODEL, "messages": [message]})
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            async with self._room:
                reader, writer = await asyncio.open_connection(where.hostname, where.port)
                writer.write(head.encode() + body)
                await writer.drain()
            headers = (await reader.readuntil(b"\r\n\r\n")).decode()
            while b"chat.completion" not in await reader.readline():
                pass
            job = next(line for line in headers.splitlines() if line.startswith("haulier-job"))
            self.answered[job.partition(": ")[2]] = time.time()
            writer.close()
        except (OSError, asyncio.IncompleteReadError, StopIteration) as error:
            self.failures.append(repr(error))


def measure(size: Size) -> Section:
    count = size.calls
    _allow_open_files(count + 1000)
    with open_deployment(parts=("api",)) as deployment:
        api = deployment.parts["api"].pid
        bare = resident_mb(api)
        started = time.monotonic()
        clients = _Clients(str(deployment.http.base_url), count)
        eventually(lambda: _held(deployment) == count, 300, interval=1.0)
        took = time.monotonic() - started
        time.sleep(16)  # until every answer has begun
        before, cpu = _transactions(deployment), deployment.cpu()["api"]
        time.sleep(LOOKED)
        asked, cpu = _transactions(deployment) - before, deployment.cpu()["api"] - cpu
        waiting = resident_mb(api)
        for part in ("worker", "scheduler"):
            deployment.processes.haulier(part)
        clients.thread.join(timeout=600)
        delays = sorted(_delays(deployment, clients))
        peak = peak_mb(api)
    middle, late = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
    assert not clients.failures, clients.failures[:3]
    return Section(
        [
            Row(
                f"{count:,} calls held by one API process, its memory",
                waiting,
                "MB",
                wanted="at most 350",
                beside=f"{shown(bare)} MB before them, {shown(peak)} MB at the most, until all"
                " are answered",
            ),
            Row(
                "… taken in",
                count / took,
                "a second",
                beside="one connection each, from the same machine",
            ),
            Row(
                "… transactions while they wait",
                asked / LOOKED,
                "a second",
                wanted="one to learn what is done",
                beside="with a sign of life every 5 s and a look at tokens every 2 s; API:"
                f" {shown(cpu / LOOKED * 1000)} ms of CPU a second",
            ),
            Row(
                "settled to answered",
                f"p50 {shown(middle)}, p99 {shown(late)}",
                "s",
                wanted="< 1",
                beside="the clients run on the same cores",
            ),
        ]
    )


def _delays(deployment: Deployment, clients: _Clients) -> list[float]:
    with psycopg.connect(deployment.environment["DATABASE_URL"]) as connection:
        rows = connection.execute(
            "SELECT id::text, extract(epoch FROM finished_at)::float8 FROM haulier.jobs"
        ).fetchall()
    return [clients.answered[job] - finished for job, finished in rows]


def _held(deployment: Deployment) -> int:
    with psycopg.connect(deployment.environment["DATABASE_URL"]) as connection:
        query = "SELECT count(*) FROM haulier.calls WHERE attendant IS NOT NULL"
        return int((connection.execute(query).fetchone() or (0,))[0])


def _transactions(deployment: Deployment) -> int:
    with psycopg.connect(deployment.environment["DATABASE_URL"]) as connection:
        query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        return int((connection.execute(query).fetchone() or (0,))[0])


def _allow_open_files(wanted: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
