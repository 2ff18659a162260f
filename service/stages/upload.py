"""Upload the requests of a batch to Together."""

from collections.abc import Iterator

from service.payloads.excerpts import excerpt
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import Missing, Refused
from service.rules.states import BatchState
from service.rules.work import Advance, BatchClaim, Changes, Entry, Outcome, Retry
from service.stages.clients import AccountClients
from service.stages.dead_letters import settle_unserved


def upload(batch: BatchClaim, clients: AccountClients) -> Outcome:
    """Upload the input file as `<batch id>.jsonl`. Every upload makes a new file."""
    for file_id in batch.spent_file_ids:
        # A create that is still in flight must not find its input file.
        clients.together.delete_file(file_id)
        reached(CrashPoint.UPLOAD_FORGOTTEN)
    ranges = list(joined(clients.blobs.get_manifest(batch.manifest_blob)))

    def content() -> Iterator[bytes]:
        for piece in excerpt(clients.blobs, batch.input_blob, ranges):
            clients.lease.keep()
            yield piece

    try:
        file = clients.together.upload(f"{batch.id}.jsonl", batch.upload_bytes, content)
    except Missing as error:
        return Retry(str(error))  # the file vanished between two calls of its upload
    except Refused as error:
        return settle_unserved(batch, clients, BatchState.FAILED, "upload_refused", str(error))
    reached(CrashPoint.UPLOAD_SENT)
    return Advance(BatchState.UPLOADED, Changes(input_file_id=file.id))


def joined(entries: list[Entry]) -> Iterator[tuple[int, int]]:
    """Yield the (offset, length) of the entries' lines in the input blob, adjacent ones merged."""
    start = end = 0
    for entry in entries:
        if entry.offset != end:
            if end > start:
                yield start, end - start
            start = entry.offset
        end = entry.offset + entry.length
    if end > start:
        yield start, end - start
