"""Taking requests in: Intake against bare loops over the same file."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.child import Cost, medians
from tests.bench.corpus import write_requests
from tests.bench.figures import Row, Section, shown
from tests.bench.size import Size

LENGTH = 575


def measure(size: Size) -> Section:
    count = size.split_lines
    with TemporaryDirectory() as home:
        path = str(write_requests(Path(home, "input.jsonl"), count, LENGTH))
        target = {"path": path, "target": str(Path(home, "copy.jsonl"))}
        works: dict[str, tuple[str, dict[str, Any]]] = {
            "iterate": ("split_floor:iterate", {"path": path}),
            "copy": ("split_floor:copy", target),
            "decode": ("split_floor:decode", {"path": path}),
            "best": ("split_floor:best", target),
            "intake": ("intake:take", {"path": path, "blobs": str(Path(home, "blobs"))}),
        }
        cost = medians(size.rounds, works)
    assert cost["intake"].value == cost["best"].value == count
    return Section([*_rows(cost, count)])


def _rows(cost: dict[str, Cost], count: int) -> list[Row]:
    lines = f"{count:,} lines of {LENGTH} bytes"
    bare = ", ".join(
        f"{words} {shown(cost[name].cpu)} s"
        for name, words in (("iterate", "iterate"), ("copy", "+ copy"), ("decode", "typed decode"))
    )
    peak, least = cost["intake"].peak_mb, cost["best"].peak_mb
    return [
        Row(
            f"take in {lines}: validate, find duplicates, copy, hash, cut",
            cost["intake"].cpu,
            "CPU s",
            cost["best"].cpu,
            "ratio ≤ 1.5",
            bare,
        ),
        Row("… throughput", count / cost["intake"].wall, "lines/s", count / cost["best"].wall),
        Row("… peak memory of the process", peak, "MB", least, "< 200 MB"),
    ]
