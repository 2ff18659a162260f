"""Bringing a batch home: reconciling and assembling against the bare `pread` loop."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.child import measured, medians
from tests.bench.corpus import answer_line, error_line, write_shuffled
from tests.bench.figures import Row, Section
from tests.bench.size import Size

LENGTH = 2000
EVERY = 17
"""One request in so many fails (3,000 of 50,000), or was in a retry batch."""


def measure(size: Size) -> Section:
    count = size.shard
    ids = [f"request-{number:09d}" for number in range(count)]
    with TemporaryDirectory() as name:
        home = Path(name)
        blobs = str(home / "blobs")
        (home / "ids").write_text("\n".join(ids))
        served = (answer_line(i, LENGTH) for n, i in enumerate(ids) if n % EVERY)
        failed = (error_line(i) for n, i in enumerate(ids) if not n % EVERY)
        again = (answer_line(i, LENGTH) for n, i in enumerate(ids) if not n % EVERY)
        output = str(write_shuffled(home / "output.jsonl", served))
        errors = str(write_shuffled(home / "errors.jsonl", failed))
        retried = str(write_shuffled(home / "retried.jsonl", again))
        shard = measured("bringing_home:prepare_shard", blobs=blobs, count=count).value
        parts = measured("bringing_home:prepare_parts", blobs=blobs, count=count, every=EVERY).value
        bare = {"wanted": str(home / "ids"), "output": output, "target": str(home / "results")}
        works: dict[str, tuple[str, dict[str, Any]]] = {
            "bare": ("reconcile_floor:pread", {**bare, "errors": errors}),
            "fetch": (
                "bringing_home:reconcile",
                {
                    "blobs": blobs,
                    "scratch": name,
                    "shard": shard,
                    "output": output,
                    "errors": errors,
                },
            ),
            "bare merge": ("reconcile_floor:pread", {**bare, "errors": retried}),
            "assemble": ("bringing_home:assemble", {"blobs": blobs, "parts": parts}),
        }
        cost = medians(size.rounds, works)
    fetch, value = cost["fetch"], cost["fetch"].value
    assert value["succeeded"] + value["dead"] == cost["assemble"].value == count
    return Section(
        [
            Row(
                f"reconcile {count:,} requests of {LENGTH:,} bytes, 6 % errors, into input order",
                fetch.cpu - value["handed_out"],
                "CPU s",
                cost["bare"].cpu,
                "ratio ≤ 1.5",
                "floor: index of offsets, `pread` in input order, one file written",
            ),
            Row("… peak memory of the process", fetch.peak_mb, "MB", cost["bare"].peak_mb),
            Row(
                f"assemble {count:,} results where 6 % were in a retry batch",
                cost["assemble"].cpu,
                "CPU s",
                cost["bare merge"].cpu,
                "ratio ≤ 1.5",
                "without retries nothing is copied: what is in order already stays where it is",
            ),
            Row("… peak memory of the process", cost["assemble"].peak_mb, "MB"),
        ]
    )
