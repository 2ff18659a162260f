"""Many small specs: how many a second are taken in, and how soon they are at Together."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import psycopg
from celery import Celery

from tests.api import TOKEN
from tests.bench.corpus import MODEL, prose
from tests.bench.deployment import Deployment, open_deployment
from tests.bench.figures import Row, Section, shown
from tests.bench.size import Size

THREADS = 4
RATE = 20
SECONDS = 10
"""Specs a second, for so many seconds, to see how soon they are uploaded."""
LONGEST = 120


def measure(size: Size) -> Section:
    count = size.submissions
    with open_deployment(parts=("api",)) as deployment:
        queued, inbox_cpu = _over_the_queue(deployment, count)
        posted, api_cpu = _over_http(deployment, count)
    with open_deployment({"HAULIER_PACK_SECONDS": "0"}) as deployment:
        delays = _until_uploaded(deployment)
    middle, late = delays[len(delays) // 2], delays[len(delays) * 99 // 100]
    return Section(
        [
            Row(
                f"{count:,} specs of 1 to 10 requests from the queue, taken in",
                queued,
                "a second",
                wanted="1,000 a second",
                beside=f"inbox: {shown(inbox_cpu / count * 1000)} ms of CPU for each",
            ),
            Row(
                "… over HTTP",
                posted,
                "a second",
                wanted="300 a second",
                beside=f"API: {shown(api_cpu / count * 1000)} ms of CPU for each;"
                f" {THREADS} connections from the same machine",
            ),
            Row(
                f"submit to first upload, at {RATE} specs a second",
                f"p50 {shown(middle)}, p99 {shown(late)}",
                "s",
                wanted="p99 < 1",
                beside="with everything running and HAULIER_PACK_SECONDS=0",
            ),
        ]
    )


def specs(count: int) -> list[dict[str, Any]]:
    """Specs of 1 to 10 requests."""
    return [
        {
            "endpoint": "/v1/chat/completions",
            "requests": [
                {
                    "custom_id": f"request-{number}",
                    "body": {
                        "model": MODEL,
                        "messages": [{"role": "user", "content": prose(400, number)}],
                    },
                }
                for number in range(1 + spec % 10)
            ],
        }
        for spec in range(count)
    ]


def _over_the_queue(deployment: Deployment, count: int) -> tuple[float, float]:
    """(specs a second, CPU seconds of the inbox) to read a queue that is full already."""
    producer = Celery(broker=deployment.environment["REDIS_URL"])
    producer.conf.task_create_missing_queues = True
    with producer.connection_for_write() as connection:
        for spec in specs(count):
            producer.send_task(
                "haulier.submit",
                kwargs={"spec": spec},
                queue="haulier.submit",
                connection=connection,
                ignore_result=True,
            )
    deployment.parts["inbox"] = deployment.processes.haulier("inbox")
    first, began = _jobs_after(deployment, lambda jobs: jobs > 0)
    before = deployment.cpu()["inbox"]
    _, ended = _jobs_after(deployment, lambda jobs: jobs >= count)
    return (count - first) / (ended - began), deployment.cpu()["inbox"] - before


def _jobs_after(deployment: Deployment, reached: Callable[[int], bool]) -> tuple[int, float]:
    """(jobs, instant) as soon as there are enough."""
    deadline = time.monotonic() + LONGEST
    with psycopg.connect(deployment.environment["DATABASE_URL"], autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute("SELECT count(*) FROM haulier.jobs").fetchone()
            if row is not None and reached(row[0]):
                return int(row[0]), time.monotonic()
            time.sleep(0.05)
    raise AssertionError(f"not within {LONGEST} s; the last count was {row}")


def _over_http(deployment: Deployment, count: int) -> tuple[float, float]:
    """(specs a second, CPU seconds of the API)."""
    bodies = [msgspec.json.encode(spec) for spec in specs(count)]
    shares = [bodies[number::THREADS] for number in range(THREADS)]
    before, started = deployment.cpu()["api"], time.monotonic()
    with ThreadPoolExecutor(THREADS) as threads:
        for sent in [threads.submit(_post, deployment, share) for share in shares]:
            sent.result()
    return count / (time.monotonic() - started), deployment.cpu()["api"] - before


def _post(deployment: Deployment, bodies: list[bytes]) -> None:
    """Submit specs over one connection; http.client, for the client's CPU is the server's too."""
    place = urlsplit(str(deployment.http.base_url))
    assert place.hostname is not None
    connection = HTTPConnection(place.hostname, place.port, timeout=60)
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    for body in bodies:
        connection.request("POST", "/v1/jobs", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 201, content
    connection.close()


def _until_uploaded(deployment: Deployment) -> list[float]:
    """Seconds from each job's acceptance to the end of its first upload, sorted."""
    pages = specs(RATE * SECONDS)
    _post(deployment, [msgspec.json.encode(pages[0])])  # what is needed once
    started = time.monotonic()
    for number, spec in enumerate(pages):
        _post(deployment, [msgspec.json.encode({**spec, "idempotency_key": str(uuid4())})])
        time.sleep(max(0.0, started + number / RATE - time.monotonic()))
    deadline = time.monotonic() + LONGEST
    query = """
        SELECT extract(epoch FROM min(e.at) - j.created_at)::float8 AS delay
        FROM haulier.jobs j JOIN haulier.parts p ON p.job_id = j.id
        JOIN haulier.events e ON e.batch_id = p.batch_id AND e.target = 'uploaded'
        GROUP BY j.id, j.created_at ORDER BY delay
    """
    with psycopg.connect(deployment.environment["DATABASE_URL"], autocommit=True) as connection:
        while True:
            delays = [float(row[0]) for row in connection.execute(query).fetchall()]
            if len(delays) > len(pages):
                return delays
            assert time.monotonic() < deadline, f"{len(delays)} of {len(pages)} were uploaded"
            time.sleep(0.5)
