"""Upload the requests of a batch to Together."""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import IO
from uuid import uuid4

from service.payloads.blobs import BLOCK, Blobs
from service.payloads.excerpts import excerpt
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import Missing, Refused
from service.rules.outcomes import Advance, Changes, Cut, Outcome, Retry, SetApart
from service.rules.shared_ids import renamed
from service.rules.states import BatchState
from service.rules.work import BatchClaim, Entry, PartClaim
from service.stages.clients import AccountClients
from service.stages.dead_letters import names_of, open_parts, refuse

READERS = 8
"""How many ranges are read at a time: each may be a request to S3."""
READ_BYTES = 4 << 20
"""About how many bytes of lines each of them holds."""


def upload(batch: BatchClaim, clients: AccountClients) -> Outcome:
    """Upload the input file as `<batch id>.jsonl`. Every upload makes a new file."""
    for file_id in batch.spent_file_ids:
        # A create that is still in flight must not find its input file.
        clients.together.delete_file(file_id)
        reached(CrashPoint.UPLOAD_FORGOTTEN)
    parts = open_parts(clients)
    if batch.probe is not None and batch.requests > batch.probe and len(parts) == 1:
        return _cut(batch.probe, parts[0], clients)
    if batch.parts > 1 or batch.renamed:
        return _upload_together(batch, parts, clients)
    (part,) = parts
    ranges = list(joined(clients.blobs.get_manifest(part.manifest)))
    return _send(
        batch, part.bytes, lambda: excerpt(clients.blobs, part.input_blob, ranges), clients
    )


def _cut(size: int, part: PartClaim, clients: AccountClients) -> Cut:
    """Let only the first requests of a part travel.

    Manifests stand with the job, since the part may leave this batch.
    """
    entries = clients.blobs.get_manifest(part.manifest)
    travels, stays = entries[:size], entries[size:]
    name = f"jobs/{part.job_id}/{uuid4()}"
    return Cut(
        part=part.id,
        travels=clients.blobs.put_manifest(f"{name}-probe.manifest", travels),
        requests=len(travels),
        bytes=sum(entry.length for entry in travels),
        stays=clients.blobs.put_manifest(f"{name}-rest.manifest", stays),
    )


def _send(
    batch: BatchClaim,
    size: int,
    pieces: Callable[[], Iterable[bytes]],
    clients: AccountClients,
) -> Outcome:
    def content() -> Iterator[bytes]:
        for piece in pieces():
            clients.lease.keep()
            yield piece

    try:
        file = clients.together.upload(f"{batch.id}.jsonl", size, content)
    except Missing as error:
        return Retry(str(error))  # the file vanished between two calls of its upload
    except Refused as error:
        return refuse(batch, clients, "upload_refused", str(error))
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


# --- batches of several parts -------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """The place of a request's line, and what the request is called in the batch."""

    part: PartClaim
    entry: Entry
    name: str


def _upload_together(
    batch: BatchClaim, parts: Sequence[PartClaim], clients: AccountClients
) -> Outcome:
    """Write the lines to scratch space, since new custom_ids change their size."""
    with tempfile.TemporaryFile(buffering=BLOCK, dir=clients.scratch) as file:
        lost = _write(file, batch, parts, clients)
        if lost:
            return SetApart(tuple(part.id for part in lost), "their requests cannot be read")
        size = file.tell()

        def content() -> Iterator[bytes]:
            file.seek(0)
            while block := file.read(BLOCK):
                yield block

        return _send(batch, size, content, clients)


def _write(
    file: IO[bytes], batch: BatchClaim, parts: Sequence[PartClaim], clients: AccountClients
) -> list[PartClaim]:
    """Write the lines of all parts, blob by blob. Return the parts of which a blob is missing.

    Raises FileNotFoundError if that is all of them: then the storage is to blame.
    """
    by_blob: defaultdict[str, list[_Line]] = defaultdict(list)
    lost: list[PartClaim] = []
    for part in parts:
        try:
            entries = clients.blobs.get_manifest(part.manifest)
        except FileNotFoundError:
            lost.append(part)
            continue
        names = names_of(batch, part, entries)
        by_blob[part.input_blob] += map(_Line, repeat(part), entries, names)
    chunks = [chunk for lines in by_blob.values() for chunk in _chunks(lines)]
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(chunks), READERS):
            some = chunks[start : start + READERS]
            for chunk, data in zip(
                some, readers.map(lambda lines: _read(clients.blobs, lines), some), strict=True
            ):
                if data is None:
                    lost += {line.part.id: line.part for line in chunk}.values()
                else:
                    file.write(data)
            clients.lease.keep()
    if len({part.id for part in lost}) == len(parts):
        raise FileNotFoundError("none of the requests of the batch can be read")
    return lost


def _chunks(lines: list[_Line]) -> Iterator[list[_Line]]:
    """Cut the lines of a blob, in the order in which they stand in it, into pieces to read."""
    chunk: list[_Line] = []
    held = 0
    for line in sorted(lines, key=lambda line: line.entry.offset):
        chunk.append(line)
        held += line.entry.length
        if held >= READ_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _read(blobs: Blobs, lines: Sequence[_Line]) -> bytes | None:
    """Return lines of one blob with their new custom_ids; None if the blob is missing."""
    ranges = [(line.entry.offset, line.entry.length) for line in lines]
    pieces = excerpt(blobs, lines[0].part.input_blob, ranges)
    found = []
    try:
        for line in lines:
            data = b""
            while len(data) < line.entry.length:
                data += next(pieces)
            same = line.name == line.entry.custom_id
            found.append(data if same else renamed(data, line.entry.custom_id, line.name))
    except FileNotFoundError:
        return None
    return b"".join(found)
