"""A whole job through all of Haulier's processes, and the same through scripts."""

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.charts import Chart
from tests.bench.child import Cost, measured
from tests.bench.corpus import write_requests
from tests.bench.deployment import Deployment, open_deployment
from tests.bench.figures import Row, Section, shown
from tests.bench.openai_shim import openai_shim
from tests.bench.size import Size

LENGTH = 600
LONGEST = 1800
ROUNDS = 3
BARE = "bare script (httpx, msgspec; no database, no queue)"
SDK = "tutorial script (official SDK)"
OPENAI_BATCH = "openai-batch (answers unordered, failures left to its user)"
PYTHON = Path(__file__).parents[2] / "build" / "peers" / "bin" / "python"
"""Where `make bench-peers` installs public tools; they are measured where they are."""
PEERS = {BARE: "bare_script:run", SDK: "sdk_script:run"} | (
    {OPENAI_BATCH: "openai_batch_script:run"} if PYTHON.exists() else {}
)
SHARES = (0.01, 0.1)
"""Jobs of these parts of the size are run for the plot."""


@dataclass(frozen=True)
class Run:
    """What a job took: CPU seconds of each part, seconds of each phase."""

    cpu: dict[str, float]
    submitting: float
    running: float
    downloading: float

    @property
    def total(self) -> float:
        return sum(self.cpu.values())

    @property
    def wall(self) -> float:
        return self.submitting + self.running + self.downloading


def measure(size: Size) -> Section:
    count = size.requests
    with open_deployment() as deployment:
        path = write_requests(deployment.home / "input.jsonl", count, LENGTH)
        first = run_job(deployment, path, count)  # every process opens its connections
        runs: list[Run] = []
        peers: dict[str, list[Cost]] = {name: [] for name in PEERS}
        for _ in range(ROUNDS):
            runs.append(run_job(deployment, path, count))
            for name, found in peers.items():
                found.append(_peer(deployment, name, path, count))
        lines = _throughputs(deployment, size)
    typical = sorted(runs, key=lambda run: run.total)[ROUNDS // 2]
    lines["Haulier"].append((count, count / typical.wall))
    for name, found in peers.items():
        lines[name].append((count, count / median(cost.wall for cost in found)))
    named = {name.partition(" (")[0]: points for name, points in lines.items()}
    chart = Chart("Throughput of a job", "requests in the job", "requests/s", named, log=True)
    return Section(_rows(count, typical, first, peers), charts={"performance-throughput": chart})


def _rows(count: int, typical: Run, first: Run, peers: dict[str, list[Cost]]) -> list[Row]:
    per = 100_000 / count
    cpu = {name: median(cost.cpu for cost in found) * per for name, found in peers.items()}
    peaks = ", ".join(f"{name}: {shown(found[0].peak_mb)} MB" for name, found in peers.items())
    beside = [
        f"{name}: {shown(s)} CPU s, {s / typical.total / per:.2f} of ours"
        for name, s in cpu.items()
    ]
    shares = ", ".join(f"{name} {shown(seconds * per)}" for name, seconds in typical.cpu.items())
    return [
        Row(
            f"all Haulier processes, for each 100,000 requests of {LENGTH} bytes (job: {count:,})",
            typical.total * per,
            "CPU s",
            cpu[BARE],
            "≤ 3 CPU s",
            "; ".join(beside),
        ),
        Row("… each", shares, "CPU s"),
        Row(
            "… in the first job after the start",
            first.total * per,
            "CPU s",
            beside="connections are opened, statements compiled",
        ),
        Row(
            "… from submit to the last result read",
            count / typical.wall,
            "requests/s",
            beside=f"{typical.wall:.1f} s, of which submit {typical.submitting:.1f} and download"
            f" {typical.downloading:.1f}; the simulator's work and its second a batch are in it",
        ),
        Row("… peak memory of the scripts", peaks),
    ]


def _throughputs(deployment: Deployment, size: Size) -> dict[str, list[tuple[float, float]]]:
    """(requests, requests a second) of smaller jobs."""
    lines: dict[str, list[tuple[float, float]]] = {"Haulier": [], **{name: [] for name in PEERS}}
    for share in SHARES:
        count = round(size.requests * share)
        path = write_requests(deployment.home / "smaller.jsonl", count, LENGTH)
        lines["Haulier"].append((count, count / run_job(deployment, path, count).wall))
        for name in PEERS:
            lines[name].append((count, count / _peer(deployment, name, path, count).wall))
    return lines


def _peer(deployment: Deployment, name: str, path: Path, count: int) -> Cost:
    """A script's run against the same simulator, under a key of its own."""
    key = f"key of {PEERS[name]}"
    with TemporaryDirectory(dir=deployment.home) as home:
        same: dict[str, Any] = {"path": str(path), "key": key, "home": home}
        if name == OPENAI_BATCH:
            with openai_shim(deployment.simulator.url) as url:
                cost = measured(PEERS[name], python=str(PYTHON), url=url, **same)
        else:
            cost = measured(PEERS[name], url=deployment.simulator.url, **same)
    assert cost.value == count, f"{name} brought home {cost.value} of {count}"
    return cost


def run_job(deployment: Deployment, path: Path, count: int) -> Run:
    """Submit a file as one POST, wait, read the results."""
    before, started = deployment.cpu(), time.monotonic()
    job_id = deployment.submit_file(path)
    submitted = time.monotonic()
    deployment.completed(job_id, LONGEST)
    completed = time.monotonic()
    lines, _ = deployment.download(job_id)
    downloaded = time.monotonic()
    assert lines == count, f"{lines} results of {count}"
    after = deployment.cpu()
    return Run(
        {name: after[name] - before[name] for name in before},
        submitted - started,
        completed - submitted,
        downloaded - completed,
    )
