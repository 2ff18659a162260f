"""What is measured of a world, week by week: memory, tables, blobs, and how long things take."""

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.eventually import eventually
from tests.faults.chaos_ledger import Asked, Ledger
from tests.servers import children
from tests.virtual_time.company import Company
from tests.virtual_time.traffic import CHAT, DAY, request
from tests.virtual_time.world import Traveller, World

_TABLES = """
SELECT c.relname, pg_table_size(c.oid), pg_indexes_size(c.oid), s.n_live_tup, s.n_dead_tup
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_stat_user_tables s ON s.relid = c.oid WHERE n.nspname = 'haulier' AND c.relkind = 'r'
"""
_TICKS = "SELECT coalesce(sum(seconds), 0), coalesce(sum(count), 0) FROM haulier.ticks"
_COVERAGE = """
SELECT coalesce(sum(ended), 0), coalesce(sum(in_time), 0), coalesce(sum(half_ended), 0),
  coalesce(sum(half_in_time), 0) FROM haulier.forecast_coverage
"""
_DUE = """
SELECT extract(epoch FROM b.not_before) FROM haulier.batches b
JOIN haulier.parts p ON p.batch_id = b.id
WHERE p.job_id = %s AND b.state = 'created' AND b.lease IS NULL
"""
_OLDEST = "SELECT extract(epoch FROM now() - min(finished_at)) FROM haulier.jobs"
LONGEST_PROBE = 120.0
PROBE_REQUESTS = 100


@dataclass(frozen=True)
class Probes:
    """What the jobs are called, and which model they ask."""

    name: str
    model: str
    count: int


@dataclass
class Measured:
    """At one virtual instant."""

    day: float
    """Since the beginning."""
    memory: dict[str, float] = field(default_factory=dict)
    """Resident MB of each process, its children included."""
    tables: dict[str, list[int]] = field(default_factory=dict)
    """Of each: bytes, bytes of its indexes, live rows, dead rows."""
    blobs: int = 0
    blob_bytes: int = 0
    orphans: int = 0
    """Blobs of jobs and batches that have no row any more: they go with the next sweep."""
    oldest: float = 0.0
    """Days since the first of the jobs that are kept has ended."""
    provider_files: int = 0
    ticks: list[float] = field(default_factory=list)
    """Seconds of all ticks so far, and how many there were."""
    probe: list[float] = field(default_factory=list)
    """Seconds of the true clock that ordinary jobs took, with nothing else under way."""
    coverage: list[int] = field(default_factory=list)
    jobs: int = 0
    """Rows."""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(world: World, day: float) -> Measured:
    """Look at everything that should stay within bounds."""
    measured = Measured(day, memory=memory(world))
    rows: Sequence[Any] = world.db.execute(_TABLES.encode()).fetchall()
    measured.tables = {row[0]: [int(value) for value in row[1:]] for row in rows}
    sizes = list(_sizes(world.data / "blobs"))
    measured.blobs, measured.blob_bytes = len(sizes), sum(sizes)
    measured.orphans = sum(1 for _ in orphans(world))
    row: Any = world.db.execute(_OLDEST).fetchone()
    measured.oldest = float(row[0] or 0) / DAY
    measured.provider_files = sum(1 for _ in (world.data / "simulator" / "files").iterdir())
    measured.ticks = [
        float(str(value)) for value in world.db.execute(_TICKS.encode()).fetchone() or ()
    ]
    found: Sequence[Any] = world.db.execute(_COVERAGE.encode()).fetchone() or ()
    measured.coverage = [int(value) for value in found]
    counted: Any = world.db.execute("SELECT count(*) FROM haulier.jobs").fetchone()
    measured.jobs = int(counted[0])
    return measured


def orphans(world: World) -> Iterator[Path]:
    """Blobs of jobs and batches that have no row."""
    for kind in ("jobs", "batches"):
        query = f"SELECT id::text FROM haulier.{kind}"
        known = {row[0] for row in world.db.execute(query.encode())}
        for folder in (world.data / "blobs" / kind).glob("*"):
            if folder.name not in known:
                yield from (path for path in folder.rglob("*") if path.is_file())


def memory(world: World) -> dict[str, float]:
    """Resident MB by process: a share of what processes share."""
    return {name: sum(_pss(p) for p in _family(pid)) for name, pid in world.processes().items()}


def _family(pid: int) -> Iterator[int]:
    yield pid
    try:
        found = children(pid)
    except FileNotFoundError:
        return
    for child in found:
        yield from _family(child)


def _pss(pid: int) -> float:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has ended
        return 0.0
    line = next((line for line in rollup.splitlines() if line.startswith("Pss:")), "Pss: 0 kB")
    return int(line.split()[1]) / 1024


def _sizes(folder: Path) -> Iterator[int]:
    for place, _, names in os.walk(folder):
        for name in names:
            yield (Path(place) / name).stat().st_size


def probe(company: Company, traveller: Traveller, ledger: Ledger, asked: Probes) -> list[float]:
    """Seconds, by the true clock, that Haulier's own work for ordinary jobs takes.

    They are those until a job's batch is created, and those from when its end is seen until its
    results are there.
    """
    took = []
    rows = traveller.world.db
    for number in range(asked.count):
        key = f"probe-{asked.name}-{number}"
        names = tuple(f"{key}-{line:03}-fine" for line in range(PROBE_REQUESTS))
        spec = {
            "endpoint": CHAT,
            "idempotency_key": key,
            "requests": [request(name, asked.model, "Say") for name in names],
        }
        ledger.ask(Asked("http", key, names))
        began = time.monotonic()
        job = company.admin("POST", "/v1/jobs", json=spec)["id"]
        ledger.accept(key, UUID(job), new=True)

        def due(job: str = job) -> Any:
            return rows.execute(_DUE, [job]).fetchone()

        until = eventually(due, LONGEST_PROBE, interval=0.02)[0]
        created = time.monotonic() - began
        traveller.to(float(until) + 1)
        began = time.monotonic()

        def finished(job: str = job) -> bool:
            return bool(company.admin("GET", f"/v1/jobs/{job}")["finished_at"])

        eventually(finished, LONGEST_PROBE, interval=0.02)
        took.append(created + time.monotonic() - began)
    return took


def slope(points: Sequence[tuple[float, float]]) -> float:
    """By how much y grows when x grows by one, by least squares."""
    if len({x for x, _ in points}) < 2:
        return 0.0
    return statistics.linear_regression(*zip(*points, strict=True)).slope
