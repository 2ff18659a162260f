"""What one writes after reading Together's tutorial: the official SDK, and json. Runs in a child.

A file for each 10,000 requests, the most that Together recommends for a batch.
"""

import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

from together import Together

ENDED = {"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"}


def run(path: str, url: str, key: str, home: str) -> int:
    """Upload, create, poll, download, and write the results in input order."""
    client = Together(api_key=key, base_url=url)
    order: list[str] = []
    batches: list[str] = []
    with Path(path).open() as lines:
        while shard := [json.loads(line) for line in islice(lines, 10_000)]:
            order += [request["custom_id"] for request in shard]
            name = Path(home, f"batch_input_{len(batches)}.jsonl")
            with name.open("w") as out:
                out.writelines(json.dumps(request) + "\n" for request in shard)
            file = client.files.upload(file=name, purpose="batch-api", check=False)
            made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions")
            assert made.job is not None
            batches.append(str(made.job.id))
    results: dict[str, Any] = {}
    for batch_id in batches:
        while (job := client.batches.retrieve(batch_id)).status not in ENDED:
            time.sleep(1)
        for file_id in filter(None, (job.output_file_id, job.error_file_id)):
            for line in client.files.content(file_id).read().decode().splitlines():
                answer = json.loads(line)
                results[answer["custom_id"]] = answer
    with Path(home, "results.jsonl").open("w") as out:
        out.writelines(json.dumps(results[custom_id]) + "\n" for custom_id in order)
    return len(results)
