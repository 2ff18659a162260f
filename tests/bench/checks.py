"""What checking answers costs, on top of bringing a batch home."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.bench.child import measured, medians
from tests.bench.corpus import json_answer_line, write_shuffled
from tests.bench.figures import Row, Section
from tests.bench.size import Size

LENGTH = 2000
SCHEMA = {
    "type": "object",
    "required": ["label", "score", "words"],
    "additionalProperties": False,
    "properties": {
        "label": {"enum": ["yes", "no"]},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "words": {"type": "array", "items": {"type": "string", "minLength": 1}},
    },
}
CHECKS: dict[str, Any] = {
    "none": None,
    "`complete`, `nonempty`": ["complete", "nonempty"],
    "`json`": "json",
    "`regex`": {"regex": r"\"label\":\"(yes|no)\""},
    "`json_schema`": {"json_schema": SCHEMA},
}


def measure(size: Size) -> Section:
    count = size.shard
    with TemporaryDirectory() as name:
        home = Path(name)
        blobs = str(home / "blobs")
        ids = [f"request-{number:09d}" for number in range(count)]
        answers = (json_answer_line(custom_id, LENGTH) for custom_id in ids)
        output = str(write_shuffled(home / "output.jsonl", answers))
        (home / "errors.jsonl").touch()
        shard = measured("bringing_home:prepare_shard", blobs=blobs, count=count).value
        same = {
            "blobs": blobs,
            "scratch": name,
            "shard": shard,
            "output": output,
            "errors": str(home / "errors.jsonl"),
        }
        works: dict[str, tuple[str, dict[str, Any]]] = {
            kind: ("bringing_home:reconcile", {**same, "check": check})
            for kind, check in CHECKS.items()
        }
        cost = medians(size.rounds, works)
    assert all(found.value["succeeded"] == count for found in cost.values())
    bare = cost["none"].cpu
    per = 100_000 / count
    return Section(
        [
            Row(
                f"check {kind}, for 100,000 answers of {LENGTH:,} bytes",
                (found.cpu - bare) * per,
                "CPU s",
                beside="both processes, on top of what fetching without a check costs",
            )
            for kind, found in cost.items()
            if kind != "none"
        ]
    )
