"""A swarm of small specs, from the first message to the last result; and one spec alone."""

import statistics
import time
from typing import Any

import msgspec
import psycopg
from celery import Celery

from tests.bench.corpus import MODEL, prose
from tests.bench.deployment import Deployment, open_deployment
from tests.bench.figures import Row, Section, shown
from tests.bench.proc import cpu_seconds
from tests.bench.size import Size

REQUESTS = 5
LONE = 7
LONGEST = 1800
BEFORE = "before jobs shared batches, with 200 specs on the same machine:"


def measure(size: Size) -> Section:
    count = size.swarm
    with open_deployment() as deployment:
        alone = _alone(deployment)
        beside = {
            "Postgres": deployment.postgres,
            "Valkey": deployment.valkey,
            "simulator": deployment.simulator.pid,
        }
        before = {name: cpu_seconds([pid]) for name, pid in beside.items()}
        calls = sum(deployment.simulator.counts().values())
        batches = deployment.simulator.batches_created
        used, seconds = _swarm(deployment, count)
        calls = sum(deployment.simulator.counts().values()) - calls
        batches = deployment.simulator.batches_created - batches
        others = {name: cpu_seconds([pid]) - before[name] for name, pid in beside.items()}
    per_thousand = 1000 / count
    listed = ", ".join(f"{name} {shown(cpu * per_thousand)}" for name, cpu in used.items())
    apart = ", ".join(f"{name} {shown(cpu * per_thousand)}" for name, cpu in others.items())
    return Section(
        [
            Row(
                f"{count:,} specs of {REQUESTS} requests from the queue, through to their results",
                count / seconds,
                "specs a second",
                wanted="≥ 200",
                beside=f"{BEFORE} 11.0 a second",
            ),
            Row(
                "… CPU of all of Haulier's processes",
                sum(used.values()) * per_thousand,
                "s per 1,000 specs",
                wanted="≤ 4",
                beside=f"{listed}; beside them: {apart}. {BEFORE} 68.0 s",
            ),
            Row(
                "… calls to Together",
                calls * per_thousand,
                "per 1,000 specs",
                wanted="≤ 50",
                beside=f"{batches:,} provider batches. {BEFORE} 7,460",
            ),
            Row(
                f"one spec of {REQUESTS} requests on an idle service, from submit to completion",
                f"p50 {shown(statistics.median(alone))}, most {shown(max(alone))}",
                "s",
                wanted="no slower than before",
                beside=f"{LONE} in turn; a batch takes 1 s at the provider. {BEFORE} p50 3.38 s",
            ),
        ]
    )


def spec(number: int) -> dict[str, Any]:
    return {
        "endpoint": "/v1/chat/completions",
        "requests": [
            {
                "custom_id": f"request-{line}",
                "body": {
                    "model": MODEL,
                    "messages": [{"role": "user", "content": prose(400, number * REQUESTS + line)}],
                },
            }
            for line in range(REQUESTS)
        ],
    }


def _alone(deployment: Deployment) -> list[float]:
    """Seconds from submit to completion, of one spec after the other."""
    taken = []
    for number in range(LONE + 1):
        # As a service that has been idle: its last batch was sent a while ago.
        time.sleep(6)
        body = msgspec.json.encode(spec(number))
        began = time.monotonic()
        answer = deployment.http.post(
            "/v1/jobs", content=body, headers={"Content-Type": "application/json"}
        )
        deployment.completed(answer.raise_for_status().json()["id"], LONGEST)
        taken.append(time.monotonic() - began)
    return taken[1:]  # the first pays for what is needed once


def _swarm(deployment: Deployment, count: int) -> tuple[dict[str, float], float]:
    """(CPU seconds by process, seconds) from the first message to the last result."""
    url = deployment.environment["DATABASE_URL"]
    producer = Celery(broker=deployment.environment["REDIS_URL"])
    producer.conf.task_create_missing_queues = True
    specs = [spec(number) for number in range(count)]
    before = deployment.cpu()
    with psycopg.connect(url, autocommit=True) as connection:
        finished = "SELECT count(*) FROM haulier.jobs WHERE state = 'completed'"
        row = connection.execute(finished).fetchone()
        assert row is not None
        known = row[0]
        began = time.monotonic()
        with producer.connection_for_write() as broker:
            for each in specs:
                producer.send_task(
                    "haulier.submit",
                    kwargs={"spec": each},
                    queue="haulier.submit",
                    connection=broker,
                    ignore_result=True,
                )
        while row is not None and row[0] < known + count:
            assert time.monotonic() < began + LONGEST, f"{row[0] - known} of {count} are through"
            time.sleep(0.1)
            row = connection.execute(finished).fetchone()
        seconds = time.monotonic() - began
        newest = connection.execute(
            "SELECT id FROM haulier.jobs ORDER BY finished_at DESC LIMIT 1"
        ).fetchone()
    assert newest is not None
    lines, _ = deployment.download(str(newest[0]))
    assert lines == REQUESTS
    after = deployment.cpu()
    return {name: cpu - before[name] for name, cpu in after.items()}, seconds
