"""What must not grow with a job: memory; and what may grow with it no faster than the job itself.

Asserts only what noise cannot move. `make bench` has the figures.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bench.bringing_home import prepare_parts, prepare_shard
from tests.bench.child import Cost, measured
from tests.bench.corpus import answer_line, error_line, write_requests, write_shuffled
from tests.pipeline import Pipeline, chat
from tests.simulator import Simulator

TIMES = 8
"""How many times as much the larger of two sizes is."""
STEEPEST = 1.5
"""Exponent of CPU over size: 1 is linear, 2 is quadratic. On a busy machine caches are shared, and
what is linear has been seen at 1.3."""
MOST_MB = 40
"""What the larger size may hold beyond the smaller; its data are more than twice as much."""

Work = Callable[[Path, int], Cost]


def _intake(home: Path, count: int) -> Cost:
    path = write_requests(home / f"{count}.jsonl", count, 575)
    return measured("intake:take", path=str(path), blobs=str(home / "blobs"))


def _reconcile(home: Path, count: int) -> Cost:
    ids = [f"request-{number:09d}" for number in range(count)]
    served = [answer_line(i, 2000) for n, i in enumerate(ids) if n % 17]
    failed = [error_line(i) for n, i in enumerate(ids) if not n % 17]
    files: dict[str, Any] = {
        "output": str(write_shuffled(home / f"output-{count}", served)),
        "errors": str(write_shuffled(home / f"errors-{count}", failed)),
    }
    blobs = str(home / "blobs")
    shard = prepare_shard(blobs, count)
    return measured("bringing_home:reconcile", blobs=blobs, scratch=str(home), shard=shard, **files)


def _assemble(home: Path, count: int) -> Cost:
    return _merge("assemble", home, count)


def _stream(home: Path, count: int) -> Cost:
    return _merge("stream", home, count)


def _merge(work: str, home: Path, count: int) -> Cost:
    blobs = str(home / "blobs")
    parts = prepare_parts(blobs, count, every=17)
    return measured(f"bringing_home:{work}", blobs=blobs, parts=parts)


@pytest.mark.parametrize(
    ("work", "larger"),
    [
        (_intake, 200_000),
        pytest.param(_reconcile, 48_000, marks=pytest.mark.slow),
        (_assemble, 48_000),
        pytest.param(_stream, 48_000, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", "").strip("_") or None,
)
def test_cpu_grows_with_the_requests_and_memory_does_not(
    tmp_path: Path, work: Work, larger: int
) -> None:
    few, many = work(tmp_path, larger // TIMES), work(tmp_path, larger)

    assert many.peak_mb - few.peak_mb < MOST_MB, f"{few} {many}"
    assert math.log(many.cpu / few.cpu) / math.log(TIMES) < STEEPEST, f"{few} {many}"


def test_a_batch_costs_one_upload_one_create_and_one_download(
    pipeline: Pipeline, simulator: Simulator
) -> None:
    pipeline.worker()
    pipeline.scheduler(HAULIER_SHARD_REQUESTS="10")

    job = pipeline.ended(pipeline.submit(chat(*map(str, range(40))), shard_requests=10))

    assert job.succeeded == 40
    calls = simulator.counts()
    once = ("create_file", "put", "preprocess", "create", "content")
    assert {name: calls[name] for name in once} == dict.fromkeys(once, 4)
