"""Resident memory of every process over a job's time, and whether it grows with the job."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench.charts import Chart
from tests.bench.corpus import write_requests
from tests.bench.deployment import PARTS, open_deployment
from tests.bench.figures import Row, Section, shown
from tests.bench.proc import MemoryOverTime
from tests.bench.size import Size

LENGTH = 600
BIG = 5_000_000
LONGEST = 7200
MOST = "< 200 MB"


@dataclass(frozen=True)
class Run:
    """A job, and what its processes held: (seconds, MB) of each part's largest process."""

    points: Mapping[str, list[tuple[float, float]]]
    peaks: Mapping[str, float]
    """The high-water mark of the largest process of each part, in MB."""


def measure(size: Size) -> Section:
    count = size.memory_small
    one, whole = _run(size.shard, LENGTH), _run(count, LENGTH)
    big = _run(size.memory_big, BIG)
    rows = []
    for run, words in (
        (whole, f"{count:,} requests of {LENGTH} bytes"),
        (big, f"{size.memory_big:,} requests of {BIG // 1_000_000} MB"),
    ):
        peaks = [f"{name} {shown(run.peaks[name])}" for name in PARTS if name != "worker"]
        rows.append(
            Row(
                f"largest worker process, {words}",
                run.peaks["worker"],
                "MB",
                wanted=MOST,
                beside=", ".join(peaks),
            )
        )
    more = count - size.shard
    rows += [_growth(name, one, whole, more) for name in ("worker", "api")]
    small_chart = Chart(
        f"Memory, {count:,} requests of {LENGTH} bytes", "seconds", "MB", whole.points
    )
    big_chart = Chart(f"Memory, {size.memory_big:,} requests of 5 MB", "seconds", "MB", big.points)
    return Section(
        rows,
        charts={"performance-memory": small_chart, "performance-memory-big": big_chart},
    )


def _growth(name: str, one: Run, whole: Run, requests: int) -> Row:
    more = whole.peaks[name] - one.peaks[name]
    return Row(
        f"{name}: what {requests:,} requests beyond the first shard add",
        f"{more:+.1f}",
        "MB",
        wanted="none that follows the number of requests",
        beside=f"{more / requests * 1_000_000:+.0f} MB for each million, if it went on so",
    )


def _run(count: int, length: int) -> Run:
    """One job in processes that have done nothing before."""
    with open_deployment() as deployment:
        path = write_requests(deployment.home / "input.jsonl", count, length)
        with MemoryOverTime(deployment.roots) as memory:
            job_id = deployment.submit_file(path)
            deployment.completed(job_id, LONGEST)
            lines, _ = deployment.download(job_id)
        assert lines == count, f"{lines} results of {count}"
    return Run(memory.points, memory.peaks)
