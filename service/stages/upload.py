"""Bring a batch's requests to Together."""

from collections.abc import Iterable, Iterator

from service.crashpoints import CrashPoint, reached
from service.errors import Missing, Refused
from service.stages.bury import bury
from service.stages.clients import AccountClients
from service.states import BatchState
from service.work import Advance, BatchClaim, Changes, Entry, Outcome, Retry

GAP = 1 << 20
"""Bytes between two ranges that are rather read than asked around."""


def upload(batch: BatchClaim, clients: AccountClients) -> Outcome:
    """Upload the input file as `<batch id>.jsonl`. Every upload makes a file of its own."""
    if batch.cancel_requested:
        return bury(batch, clients, BatchState.CANCELLED, "cancelled", "the job was cancelled")
    for file_id in batch.spent_file_ids:
        # What an unanswered create may still refer to must not be there to be run.
        clients.together.delete_file(file_id)
        reached(CrashPoint.UPLOAD_FORGOTTEN)
    ranges = list(joined(clients.blobs.get_manifest(batch.manifest_blob)))

    def content() -> Iterator[bytes]:
        for near in neighbours(ranges):
            start, end = near[0][0], sum(near[-1])
            for piece in cut(clients.blobs.stream(batch.input_blob, start, end - start), near):
                clients.lease.keep()
                yield piece

    try:
        file = clients.together.upload(f"{batch.id}.jsonl", batch.upload_bytes, content)
    except Missing as error:
        return Retry(str(error))  # the file went away between two calls of its upload
    except Refused as error:
        return bury(batch, clients, BatchState.FAILED, "upload_refused", str(error))
    reached(CrashPoint.UPLOAD_SENT)
    return Advance(BatchState.UPLOADED, Changes(input_file_id=file.id))


def joined(entries: list[Entry]) -> Iterator[tuple[int, int]]:
    """(offset, length) of the entries' lines in the input blob, neighbours as one range."""
    start = end = 0
    for entry in entries:
        if entry.offset != end:
            if end > start:
                yield start, end - start
            start = entry.offset
        end = entry.offset + entry.length
    if end > start:
        yield start, end - start


def neighbours(ranges: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """The ranges in groups that are read as one: a request to S3 costs more than a gap."""
    near: list[tuple[int, int]] = []
    for offset, length in ranges:
        if near and offset - sum(near[-1]) > GAP:
            yield near
            near = []
        near.append((offset, length))
    if near:
        yield near


def cut(blocks: Iterator[bytes], ranges: list[tuple[int, int]]) -> Iterator[bytes]:
    """The ranges' bytes, out of blocks that begin where the first range does."""
    position, block = ranges[0][0], b""
    for offset, length in ranges:
        at, end = offset, offset + length
        while at < end:
            while position + len(block) <= at:
                position += len(block)
                block = next(blocks)
            piece = block[at - position : end - position]
            yield piece
            at += len(piece)
