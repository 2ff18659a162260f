# mypy: ignore-errors
"""For together 1.x: a batch from its file to its results, and what else its SDK does."""

import json
import sys
import time
from pathlib import Path

import together

ENDED = ("COMPLETED", "FAILED", "EXPIRED", "CANCELLED")
path, copy = Path(sys.argv[1]), Path(sys.argv[2])
client = together.Together()

file = client.files.upload(file=str(path), purpose="batch-api", check=False)
assert file.bytes == path.stat().st_size
assert file.filename == path.name
assert [listed.id for listed in client.files.list().data] == [file.id]
assert client.files.retrieve(file.id).object == "file"

made = client.batches.create_batch(file.id, "/v1/chat/completions")
while (batch := client.batches.get_batch(made.id)).status not in ENDED:
    time.sleep(0.2)
assert made.id in [listed.id for listed in client.batches.list_batches()]
assert batch.job_deadline > batch.created_at

client.files.retrieve_content(batch.output_file_id, output=str(copy))
answers = sorted(json.loads(line)["custom_id"] for line in copy.read_text().split("\n") if line)
client.files.retrieve_content(batch.error_file_id, output=str(copy))
failures = sorted(json.loads(line)["custom_id"] for line in copy.read_text().split("\n") if line)

assert client.files.delete(file.id).deleted
errors = []
for wrong in (
    lambda: client.files.retrieve(file.id),
    lambda: client.batches.get_batch("none"),
    together.Together(api_key="wrong").batches.list_batches,
    lambda: client.batches.create_batch(batch.output_file_id, "/v1/completions"),
):
    try:
        wrong()
    except together.error.TogetherException as error:
        errors.append(f"{type(error).__name__} {error.http_status}")
kept = client.files.upload(file=str(path), purpose="batch-api", check=False)
print(json.dumps([kept.id, made.id, batch.status, batch.progress, answers, failures, errors]))
