"""What looking after many batches costs: calls to Together, and CPU of the scheduler.

Batches are written straight into both databases, running for hours yet. All durations are halved
(polling and ticks alike), so that 30 seconds show what a minute shows with the defaults.
"""

import sqlite3
import time
from dataclasses import dataclass
from uuid import UUID, uuid5

import psycopg

from service.simulator.wire import account_of
from tests.bench.charts import Chart
from tests.bench.deployment import Deployment, open_deployment
from tests.bench.figures import Row, Section, shown
from tests.bench.size import Size
from tests.simulator import KEY

SPEED = 2
POLL, TICK = 30 / SPEED, 1 / SPEED
WARM_UP = 5.0
WINDOW = 60 / SPEED
SETTINGS = {
    "HAULIER_POLL_SECONDS": str(POLL),
    "HAULIER_TICK_SECONDS": str(TICK),
    "HAULIER_LEASE_SECONDS": str(120 / SPEED),
}
LOOKS = ("retrieve", "list")
NAMESPACE = UUID(int=0)

ROWS = """
INSERT INTO haulier.producers VALUES ('default') ON CONFLICT DO NOTHING;
INSERT INTO haulier.accounts (name) VALUES ('default') ON CONFLICT DO NOTHING;
INSERT INTO haulier.jobs (id, producer, state, endpoint, account, max_attempts, total, pending,
    open_batches)
  VALUES ('{job}', 'default', 'running', '/v1/chat/completions', 'default', 3, {n}, {n}, {n});
INSERT INTO haulier.batches (id, job_id, state, shard, account, model, input_blob, manifest_blob,
    bytes, requests, input_file_id, provider_batch_id, provider_status, submitted_at, not_before)
  SELECT md5('open' || n)::uuid, '{job}', 'created', n, 'default', 'm', 'i', 'm', 1000, 1,
    'file-' || n, 'open-' || n, 'IN_PROGRESS', now(), now() + n * interval '{poll} s' / {n}
  FROM generate_series(1, {n}) n;
ANALYZE haulier.batches
"""
SIMULATED = """
INSERT INTO batches (seq, id, account, input_file_id, endpoint, model_id, status, seconds, rule,
    created_at, started_at, file_size_bytes)
  VALUES (?, ?, ?, ?, '/v1/chat/completions', 'm', 'IN_PROGRESS', 36000, '{}', ?, ?, 1000)
"""


@dataclass(frozen=True)
class Minute:
    """What a minute came to. Calls by operation; CPU in seconds."""

    calls: dict[str, int]
    scheduler: float
    worker: float
    overdue: int
    """Batches that should have been looked at more than two ticks ago, at its end."""

    @property
    def looks(self) -> int:
        return sum(self.calls.values())

    @property
    def tick_ms(self) -> float:
        return self.scheduler / (WINDOW / TICK) * 1000


def measure(size: Size) -> Section:
    minutes = {count: _minute(count) for count in size.in_flight}
    rows = [row for count, minute in minutes.items() for row in _rows(count, minute)]
    lines = {
        "Haulier": [(count, max(minute.looks, 1)) for count, minute in minutes.items()],
        "one get a batch": [(count, 2 * count) for count in minutes],
    }
    title = "Calls to Together to look after batches"
    chart = Chart(title, "batches in flight", "calls a minute", lines, log=True)
    return Section(rows, charts={"performance-polling": chart})


def _rows(count: int, minute: Minute) -> list[Row]:
    calls = ", ".join(f"{name} {number}" for name, number in minute.calls.items())
    return [
        Row(
            f"calls to Together with {count:,} batches in flight",
            float(minute.looks),
            "a minute",
            2.0 * count,
            "ratio ≤ 1/20 at 10,000",
            f"{calls}; floor: one get a batch, each 30 s; overdue at the end: {minute.overdue:,}",
        ),
        Row(
            "… scheduler, for each tick",
            minute.tick_ms,
            "ms of CPU",
            wanted="< 200 ms",
            beside=f"workers: {shown(minute.worker)} CPU s a minute",
        ),
    ]


def _minute(count: int) -> Minute:
    """A scaled minute with so many batches in flight, after everything has warmed up."""
    with open_deployment(SETTINGS) as deployment:
        fill(deployment, count)
        time.sleep(WARM_UP)
        calls, cpu = deployment.simulator.counts(), deployment.cpu()
        time.sleep(WINDOW)
        calls_after, cpu_after = deployment.simulator.counts(), deployment.cpu()
        overdue = _overdue(deployment)
    spent = {name: cpu_after[name] - cpu[name] for name in cpu}
    looked = {name: calls_after.get(name, 0) - calls.get(name, 0) for name in LOOKS}
    return Minute(looked, spent["scheduler"], spent["worker"], overdue)


def _overdue(deployment: Deployment) -> int:
    query = "SELECT count(*) FROM haulier.batches WHERE not_before < now() - %s * interval '1 s'"
    with psycopg.connect(deployment.environment["DATABASE_URL"]) as connection:
        row = connection.execute(query, [2 * TICK]).fetchone()
    assert row is not None
    return int(row[0])


def fill(deployment: Deployment, count: int) -> None:
    """Put batches that Together works on into both databases, due one after the other."""
    now = time.time()
    batches = [
        (n, f"open-{n}", account_of(KEY), f"file-{n}", now, now) for n in range(1, count + 1)
    ]
    simulated = sqlite3.connect(deployment.simulator.data / "simulator.db", timeout=60)
    with simulated:
        simulated.executemany(SIMULATED, batches)
    simulated.close()
    statements = ROWS.format(job=uuid5(NAMESPACE, str(count)), n=count, poll=POLL)
    with psycopg.connect(deployment.environment["DATABASE_URL"], autocommit=True) as connection:
        for statement in statements.split(";\n"):
            connection.execute(statement)
