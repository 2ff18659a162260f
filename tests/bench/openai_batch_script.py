"""The same job with openai-batch (PyPI). It writes down what came, in whatever order, and leaves
failures to its user. Runs in a child, in the virtual environment of the peers."""

import json
import time
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from openai_batch import Batch
from openai_batch.providers import Provider


class Lines(BytesIO):
    """Takes text. Given the name of a file, openai-batch 0.3 closes it and then reads from it."""

    def write(self, text: Any) -> int:
        return super().write(text.encode())


def run(path: str, url: str, key: str, home: str) -> int:
    """Send the requests, a batch for each 10,000. Gives how many answers came."""
    provider = Provider(base_url=url, api_key=key)
    batches: list[tuple[Batch, Path]] = []
    with Path(path).open() as lines:
        while shard := list(islice(lines, 10_000)):
            output, errors = (Path(home, f"{kind}-{len(batches)}.jsonl") for kind in ("out", "err"))
            batch = Batch(Lines(), str(output), str(errors), provider=provider)
            for line in shard:
                batch.add_to_batch(**json.loads(line)["body"])
            batch.submit()
            batches.append((batch, output))
    answers = 0
    for batch, output in batches:
        while batch.status().status not in {"completed", "failed", "expired", "cancelled"}:
            time.sleep(1)
        batch.download()
        with output.open() as results:
            answers += sum(1 for _ in results)
    return answers
