"""Reconciling and assembling as Haulier does it, on files that are here. Runs in a child."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import IO, Any, cast
from uuid import uuid4

import msgspec

from service.payloads.blobs import Blobs
from service.payloads.results import assembled, stream_partial
from service.rules.outcomes import Settle
from service.rules.states import BatchState
from service.rules.work import FinalLines
from service.stages import fetch
from service.together.client import Together
from service.together.wire import ProviderBatch, read_batch
from tests.bench.corpus import answer_line, request_lines
from tests.factories import batch_claim, clients, final_lines, part_claim, take


class LocalFiles:
    """Plays Together for a fetch: its files are here. Counts the CPU seconds of handing them out,
    which are no part of reconciling."""

    def __init__(self, output: str, errors: str) -> None:
        self.cpu = 0.0
        self._files = {"output_file_id": output, "error_file_id": errors}

    def batch(self, batch_id: str) -> ProviderBatch:
        job = read_batch({"id": batch_id, "status": "COMPLETED", **self._files})
        assert job is not None
        return job

    def download(
        self, file_id: str, to: IO[bytes], progress: Callable[[], None], _most: int
    ) -> bool:
        before = time.thread_time()
        with Path(file_id).open("rb") as file:
            left = os.fstat(file.fileno()).st_size
            while left:
                left -= os.sendfile(to.fileno(), file.fileno(), None, left)
        to.seek(0, os.SEEK_END)
        progress()
        self.cpu += time.thread_time() - before
        return True


def prepare_shard(blobs: str, count: int) -> dict[str, Any]:
    """Take a shard's requests in. Gives the names of its blobs."""
    store = Blobs(Path(blobs).as_uri())
    taken = take(store, (line[:-1] for line in request_lines(count, 600)))
    (shard,) = taken.shards
    return {
        "input_blob": shard.input_blob,
        "manifest": shard.manifest,
        "bytes": shard.bytes,
        "requests": shard.requests,
    }


def reconcile(
    blobs: str, scratch: str, shard: dict[str, Any], output: str, errors: str, *, check: Any = None
) -> dict[str, float]:
    """Fetch a batch whose two files are at hand.

    What the round before wrote goes first, as the bare loop writes over it: a page of the file
    cache costs several times as much if the machine has never used it before.
    """
    rmtree(Path(blobs) / "batches", ignore_errors=True)
    local = LocalFiles(output, errors)
    claim = batch_claim(
        requests=shard["requests"],
        state=BatchState.ENDED,
        provider_batch_id="batch",
        provider_status="COMPLETED",
        output_file_id=output,
        error_file_id=errors,
    )
    store = Blobs(Path(blobs).as_uri())
    asked = {} if check is None else {"check": msgspec.json.encode(check).decode()}
    outcome = fetch(
        claim, clients(store, cast("Together", local), Path(scratch), part_claim(**shard, **asked))
    )
    assert isinstance(outcome, Settle), outcome
    settlement = outcome.parts[0]
    return {
        "handed_out": local.cpu,
        "succeeded": settlement.succeeded,
        "dead": len(settlement.dead),
    }


def prepare_parts(blobs: str, count: int, every: int) -> list[dict[str, Any]]:
    """Final lines of a batch and of its retry batch, which has each `every`-th request."""
    store = Blobs(Path(blobs).as_uri())
    lines = [(n, answer_line(f"request-{n:09d}", 2000)) for n in range(count)]
    first = final_lines(store, f"parts/{uuid4()}", [pair for pair in lines if pair[0] % every])
    second = final_lines(store, f"parts/{uuid4()}", [pair for pair in lines if not pair[0] % every])
    return [msgspec.to_builtins(part) for part in (first, second)]


def assemble(blobs: str, parts: list[dict[str, Any]]) -> int:
    """Results in input order out of the parts. Gives how many there are."""
    lines = [msgspec.convert(part, FinalLines) for part in parts]
    store = Blobs(Path(blobs).as_uri())
    return sum(segment.requests for segment in assembled(store, f"jobs/{uuid4()}", lines))


def stream(blobs: str, parts: list[dict[str, Any]]) -> int:
    """Read the results of a job that is not assembled yet. Gives their bytes."""
    lines = [msgspec.convert(part, FinalLines) for part in parts]
    return sum(map(len, stream_partial(Blobs(Path(blobs).as_uri()), lines)))
