"""What a tick costs with 100,000 batches in flight, and what a day of polling does to the table."""

import os
import statistics
import time
from datetime import timedelta
from typing import Any

import psycopg
import redis

from service.rules.outcomes import Changes, Wait
from service.rules.states import Stage
from service.store import engine
from service.store.claim import claim_batches
from service.store.due import dispatch
from service.store.models import Batch
from service.store.wait import wait
from tests.bench.child import measured
from tests.bench.deployment import open_deployment
from tests.bench.figures import Row, Section, shown
from tests.bench.size import Size

TICKS = 30
CYCLE = timedelta(minutes=5)
"""In which each batch is looked at once: about what the pace comes to for batches of hours."""
PAGE = 1000
POLLED = 2_000
WAITING = 50_000
"""Parts that wait to be let in."""
LEASE = timedelta(minutes=2)

ROWS = """
INSERT INTO haulier.producers (name) SELECT 'producer-' || n FROM generate_series(0, 9) n;
INSERT INTO haulier.jobs (id, producer, state, endpoint, account, max_attempts, total, pending,
    open_parts)
  SELECT md5('job' || n)::uuid, 'producer-' || n % 10, 'running', '/v1/chat/completions',
    'default', 3, 10, 10, 10 FROM generate_series(0, {n} / 10) n;
INSERT INTO haulier.batches (id, state, account, endpoint, producer, model, bytes, requests,
    sealed, input_file_id, provider_batch_id, provider_status, submitted_at, not_before)
  SELECT md5('batch' || n)::uuid, 'created', 'default', '/v1/chat/completions',
    'producer-' || n / 10 % 10, 'model-' || n % 7, 100000, 100, true, 'file-' || n, 'batch-' || n,
    'IN_PROGRESS', now(), now() + n * interval '{cycle} s' / {n}
  FROM generate_series(1, {n}) n;
INSERT INTO haulier.parts (id, job_id, batch_id, state, shard, account, endpoint, producer, model,
    input_blob, manifest_blob, bytes, requests)
  SELECT md5('batch' || n)::uuid, md5('job' || n / 10)::uuid, md5('batch' || n)::uuid,
    'travelling', n % 10, 'default', '/v1/chat/completions', 'producer-' || n / 10 % 10,
    'model-' || n % 7, 'pages/some-input-blob', 'pages/some-manifest@1000+1000', 100000, 100
  FROM generate_series(1, {n}) n;
INSERT INTO haulier.parts (id, job_id, state, shard, account, endpoint, producer, model,
    input_blob, manifest, bytes, requests)
  SELECT md5('waiting' || n)::uuid, md5('job' || n % ({n} / 10))::uuid, 'waiting', 0, 'default',
    '/v1/chat/completions', 'producer-' || n % 10, 'model-' || n % 7, 'i', 'm', 1000, 10
  FROM generate_series(1, {waiting}) n;
ANALYZE haulier.batches; ANALYZE haulier.parts; ANALYZE haulier.jobs
"""


def measure(size: Size) -> Section:
    with open_deployment(parts=()) as deployment:
        given = {
            "DATABASE_URL": deployment.environment["DATABASE_URL"],
            "REDIS_URL": deployment.environment["REDIS_URL"],
            # All lanes are full: admission has to count what is under way.
            "HAULIER_MAX_INFLIGHT_BATCHES": "1",
        }
        run(
            given["DATABASE_URL"],
            ROWS.format(n=size.ticked, cycle=CYCLE.total_seconds(), waiting=1000),
        )
        figures = {"open": measured("scheduling:ticks", environment=given).value}
        run(
            given["DATABASE_URL"],
            "INSERT INTO haulier.accounts (name, paused_until, blocked_since)"
            " VALUES ('default', now() + interval '1 h', now())",
        )
        figures["paused"] = measured("scheduling:ticks", environment=given).value
    with open_deployment(parts=()) as deployment:
        given = {name: deployment.environment[name] for name in ("DATABASE_URL", "REDIS_URL")}
        run(given["DATABASE_URL"], ROWS.format(n=10, cycle=0, waiting=WAITING))
        letting_in = measured("scheduling:ticks", environment=given).value
    rows = [
        Row(
            f"a tick with {size.ticked:,} batches in flight, account {state}",
            f"{shown(found['cpu'])} / {shown(found['cpu_max'])}",
            "ms of CPU, p50 / most",
            wanted="< 60 ms",
            beside=f"on the clock: {shown(found['wall'])} / {shown(found['wall_max'])} ms"
            f" (wanted: < 500); rows sent in all: {found['sent']:,}",
        )
        for state, found in figures.items()
    ]
    rows.append(
        Row(
            f"a tick while {WAITING:,} small specs wait and are let in",
            f"{shown(letting_in['cpu'])} / {shown(letting_in['cpu_max'])}",
            "ms of CPU, p50 / most",
            wanted="< 60 ms",
            beside=f"on the clock: {shown(letting_in['wall'])} / {shown(letting_in['wall_max'])}"
            f" ms; batches made: {letting_in['sent']:,}",
        )
    )
    return Section([*rows, *_polled(size.looks)])


def ticks(environment: dict[str, str]) -> dict[str, float]:
    """Ticks of a scheduler whose every tick gathers, with nobody who takes its messages."""
    os.environ.update(environment)
    from config.settings import settings
    from workers.scheduler import Scheduler

    scheduler = Scheduler(settings())
    broker = redis.Redis.from_url(environment["REDIS_URL"])
    cpu, wall, sent = [], [], 0
    for number in range(TICKS + 5):
        broker.delete("haulier.control", "haulier.transfer")
        scheduler._gather_at = 0.0
        began, used = time.perf_counter(), time.process_time()
        sent += scheduler.tick()
        if number >= 5:
            wall.append((time.perf_counter() - began) * 1000)
            cpu.append((time.process_time() - used) * 1000)
        # As ticks come: what is due then is what became due meanwhile.
        time.sleep(max(0.0, 1 - (time.perf_counter() - began)))
    return {
        "cpu": statistics.median(cpu),
        "cpu_max": max(cpu),
        "wall": statistics.median(wall),
        "wall_max": max(wall),
        "sent": sent,
    }


def _polled(looks: int) -> list[Row]:
    """Look at batches again and again, as a scheduler and workers do, without the pauses."""
    with open_deployment(parts=()) as deployment:
        url = deployment.environment["DATABASE_URL"]
        run(url, ROWS.format(n=POLLED, cycle=0, waiting=WAITING))
        before = _table(url)
        made = engine.create(url)
        db = engine.database(made)
        for number in range(looks):
            _look_at_all(db, number)
        made.dispose()
        after = _table(url)
    updates, hot = (after[name] - before[name] for name in ("updates", "hot"))
    return [
        Row(
            f"updates that change no index, of {updates:,} while {POLLED:,} batches are polled",
            f"{100 * hot / max(updates, 1):.0f}",
            "%",
            wanted="most",
            beside=f"{looks} looks at each, a day of one every five minutes; the table with its"
            f" indexes grew from {before['bytes'] / 1e6:.0f} to {after['bytes'] / 1e6:.0f} MB;"
            f" dead rows at the end: {after['dead']:,}",
        )
    ]


def _look_at_all(db: engine.Database, number: int) -> None:
    """One cycle: each batch is sent, claimed, and found to be where it was."""
    looked = 0
    while looked < POLLED:
        due = dispatch(
            db, Batch, frozenset({Stage.POLL}), limit=10 * PAGE, again=timedelta(hours=1)
        )
        for start in range(0, len(due), PAGE):
            ids = [row.id for row in due[start : start + PAGE]]
            claims = claim_batches(db, ids, Stage.POLL, LEASE)
            # It is due again at once, behind those that were not looked at yet.
            waits = [Wait(timedelta(0), Changes(progress=float(number % 100))) for _ in claims]
            wait(db, list(zip(claims, waits, strict=True)))
        looked += len(due)


def _table(url: str) -> dict[str, Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_stat_force_next_flush()")
        row = connection.execute(
            "SELECT n_tup_upd, n_tup_hot_upd, n_dead_tup, pg_total_relation_size(relid)"
            " FROM pg_stat_user_tables WHERE relname = 'batches'"
        ).fetchone()
    assert row is not None
    return dict(zip(("updates", "hot", "dead", "bytes"), row, strict=True))


def run(url: str, statements: str) -> None:
    """Run statements with semicolons between them."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements.split(";"):
            if statement.strip():
                connection.execute(statement)
