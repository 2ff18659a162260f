"""Dead letters: what Haulier records about a request that failed for good."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

import msgspec

from service.payloads.results import LinesWriter
from service.rules.alike import alike
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import error_text
from service.rules.outcomes import DeadLetter, RetryPart, Settle, Settlement
from service.rules.retry import BatchFault, batch_fault
from service.rules.shared_ids import shared_ids
from service.rules.states import BatchState, PartState
from service.rules.work import BatchClaim, Entry, PartClaim
from service.stages.clients import Clients
from service.stages.kept import by_answers, kept_answers
from service.stages.poison import divide_parts


def refuse(batch: BatchClaim, clients: Clients, code: str, message: str) -> Settle:
    """Settle a batch that bought nothing because Together, or something here, refuses it.

    What refuses a shared batch may be the fault of one part: it is divided until that stands alone.
    """
    parts = open_parts(clients)
    is_hopeless = batch_fault(message) is BatchFault.HOPELESS
    groups = () if len(parts) < 2 or is_hopeless else divide_parts(batch, parts)
    if not groups:
        return settle_unserved(batch, clients, BatchState.FAILED, code, message)
    settlements = []
    for group in groups:
        company = uuid4()
        for part in group:
            retry = RetryPart(
                manifest=part.manifest,
                requests=part.requests,
                bytes=part.bytes,
                delay=timedelta(0),
                poison=batch.poison + 1,
                company=company,
            )
            settlements.append(unserved(part, retry))
    return Settle(BatchState.FAILED, tuple(settlements), reason=message)


def settle_unserved(
    batch: BatchClaim, clients: Clients, to: BatchState, code: str, message: str
) -> Settle:
    """Settle a batch that bought nothing: each of its requests becomes a dead letter.

    `code` and `message` go into every result line.
    """
    parts = open_parts(clients)
    settlements = []
    writer = LinesWriter(clients.blobs, blob_prefix(batch), shared=len(parts) > 1)
    with writer.open():
        for part in parts:
            letters = []
            entries = clients.blobs.get_manifest(part.manifest)
            for page in by_answers(entries, lambda entry: entry.answer):
                kept = kept_answers(clients.blobs, [entry.answer for entry in page])
                for entry in page:
                    letter = dead_letter(entry, code, message, entry.attempts)
                    letters.append(letter)
                    answer = kept.get(entry.answer or "")
                    writer.write(entry.ordinal, result_line(letter, answer))
                clients.lease.keep()
            settlements.append(
                Settlement(
                    part=part.id,
                    job_id=part.job_id,
                    succeeded=0,
                    dead=tuple(letters),
                    final_lines=writer.end_part(),
                )
            )
    reached(CrashPoint.BURY_WRITTEN)
    return Settle(to, tuple(settlements), reason=message)


def unserved(part: PartClaim, *retries: RetryPart) -> Settlement:
    """An account of a part of which nothing was served, and all goes again."""
    return Settlement(part=part.id, job_id=part.job_id, succeeded=0, dead=(), retries=retries)


def open_parts(clients: Clients) -> tuple[PartClaim, ...]:
    """Return the batch's parts that are not settled."""
    return tuple(part for part in clients.parts() if part.state is PartState.TRAVELLING)


def names_of(batch: BatchClaim, part: PartClaim, entries: Sequence[Entry]) -> list[str]:
    """Return what requests of a part are called in its batch."""
    if not batch.renamed:
        return [entry.custom_id for entry in entries]
    return shared_ids(part.job_id, [entry.ordinal for entry in entries])


def blob_prefix(batch: BatchClaim) -> str:
    """Return what the names of the blobs begin with that this claim writes."""
    return f"batches/{batch.id}/{batch.lease}"


def dead_letter(entry: Entry, code: str, message: str, attempts: int) -> DeadLetter:
    text = error_text(message)
    return DeadLetter(
        ordinal=entry.ordinal,
        custom_id=entry.custom_id,
        code=code,
        message=text,
        attempts=attempts,
        cause=alike(text),
    )


def result_line(letter: DeadLetter, answer: bytes | None = None) -> bytes:
    """Return the line that stands in the job's results for a dead letter, without a line feed.

    `answer` is JSON: the last answer that failed its check.
    """
    line = {
        "custom_id": letter.custom_id,
        "error": {"code": letter.code, "message": letter.message},
        "attempts": letter.attempts,
    }
    if answer is not None:
        line["answer"] = msgspec.Raw(answer)
    return msgspec.json.encode(line)
