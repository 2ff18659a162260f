# mypy: ignore-errors
"""For together 2.x and 3.x: a batch from its file to its results, and what else its SDK does."""

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
assert client.files.retrieve(file.id).file_type == "jsonl"

made = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions").job
while (batch := client.batches.retrieve(made.id)).status not in ENDED:
    time.sleep(0.2)
assert made.id in [listed.id for listed in client.batches.list()]
assert batch.job_deadline > batch.created_at

with client.files.with_streaming_response.content(batch.output_file_id) as response:
    response.stream_to_file(copy)
answers = sorted(json.loads(line)["custom_id"] for line in copy.read_text().split("\n") if line)
content = client.files.content(batch.error_file_id).read().decode()
failures = sorted(json.loads(line)["custom_id"] for line in content.split("\n") if line)

assert client.files.delete(file.id).deleted
errors = []
for wrong in (
    lambda: client.files.retrieve(file.id),
    lambda: client.batches.retrieve("none"),
    together.Together(api_key="wrong").batches.list,
    lambda: client.batches.create(input_file_id="x", endpoint="/v1/completions"),
):
    try:
        wrong()
    except together.APIStatusError as error:
        errors.append(f"{type(error).__name__} {error.status_code}")
kept = client.files.upload(file=str(path), purpose="batch-api", check=False)
print(json.dumps([kept.id, made.id, batch.status, batch.progress, answers, failures, errors]))
