"""The least that runs a batch at Together: httpx and msgspec, no database, no queue, no Haulier.

It loses everything when it dies, and buys twice when an answer is lost. Runs in a child.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import httpx
import msgspec

from tests.bench.split_floor import SHARD, Line

BLOCK = 1 << 20
ENDED = {"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"}


class Answer(msgspec.Struct, gc=False):
    custom_id: str


def run(path: str, url: str, key: str, home: str) -> int:
    """Send a file of requests in shards, wait, and write the results in input order."""
    headers = {"Authorization": f"Bearer {key}"}
    shards = list(_cut(Path(path), Path(home)))
    with (
        httpx.Client(base_url=url, headers=headers, timeout=300, verify=False) as api,
        httpx.Client(timeout=300, verify=False) as store,
    ):
        batches = [(shard, _start(api, store, shard)) for shard in shards]
        with (Path(home) / "results.jsonl").open("wb", buffering=BLOCK) as out:
            return sum(_finish(api, batch, shard, out) for shard, batch in batches)


def _cut(path: Path, home: Path) -> Iterator[Path]:
    """Validate every line, refuse duplicates, and write files of as many as a batch may have."""
    decode = msgspec.json.Decoder(Line).decode
    seen: set[str] = set()
    with path.open("rb", buffering=BLOCK) as lines:
        number = 0
        line = lines.readline()
        while line:
            shard = home / f"shard-{number}.jsonl"
            with shard.open("wb", buffering=BLOCK) as out:
                for _ in range(SHARD):
                    custom_id = decode(line).custom_id
                    if custom_id in seen:
                        raise ValueError(f"{custom_id} was used before")
                    seen.add(custom_id)
                    out.write(line)
                    line = lines.readline()
                    if not line:
                        break
            yield shard
            number += 1


def _start(api: httpx.Client, store: httpx.Client, shard: Path) -> str:
    """Upload a shard and create its batch. Gives the batch's id."""
    fields = {"purpose": "batch-api", "file_name": shard.name, "file_type": "jsonl"}
    announced = api.post("/v1/files", files={name: (None, value) for name, value in fields.items()})
    file_id = announced.headers["x-together-file-id"]
    with shard.open("rb", buffering=0) as file:
        store.put(
            announced.headers["location"],
            content=iter(lambda: file.read(BLOCK), b""),
            headers={"Content-Length": str(shard.stat().st_size)},
        ).raise_for_status()
    api.post(f"/v1/files/{file_id}/preprocess").raise_for_status()
    body = {"endpoint": "/v1/chat/completions", "input_file_id": file_id}
    created = api.post("/v1/batches", json=body).raise_for_status()
    return str(created.json()["job"]["id"])


def _finish(api: httpx.Client, batch_id: str, shard: Path, out: IO[bytes]) -> int:
    """Wait for a batch and append its answers in the order of its input."""
    while (job := api.get(f"/v1/batches/{batch_id}").json())["status"] not in ENDED:
        time.sleep(1)
    decode = msgspec.json.Decoder(Answer).decode
    places: dict[str, tuple[int, int, int]] = {}
    with ExitStack() as stack:
        descriptors: list[int] = []
        for file_id in filter(None, (job["output_file_id"], job.get("error_file_id"))):
            spool = stack.enter_context(TemporaryFile(dir=shard.parent))
            with api.stream("GET", f"/v1/files/{file_id}/content") as answer:
                for block in answer.iter_raw():
                    spool.write(block)
            spool.seek(0)
            offset = 0
            for line in spool:
                places[decode(line).custom_id] = (len(descriptors), offset, len(line))
                offset += len(line)
            descriptors.append(spool.fileno())
        with shard.open("rb", buffering=BLOCK) as lines:
            for line in lines:
                number, offset, length = places[decode(line).custom_id]
                out.write(os.pread(descriptors[number], length, offset))
    return len(places)
