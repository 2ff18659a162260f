"""Dead letters: what Haulier records about a request that failed for good."""

import msgspec

from service.payloads.results import LinesWriter
from service.rules.crashpoints import CrashPoint, reached
from service.rules.states import BatchState
from service.rules.work import BatchClaim, DeadLetter, Entry, Settle, Settlement
from service.stages.clients import Clients


def settle_unserved(
    batch: BatchClaim, clients: Clients, to: BatchState, code: str, message: str
) -> Settle:
    """Settle a batch that bought nothing: each of its requests becomes a dead letter.

    `to` is FAILED or CANCELLED; `code` and `message` go into every result line.
    """
    letters = []
    writer = LinesWriter(clients.blobs, f"jobs/{batch.job_id}/{batch.id}/{batch.lease}")
    with writer.open():
        for entry in clients.blobs.get_manifest(batch.manifest_blob):
            letter = dead_letter(entry, code, message, entry.attempts)
            letters.append(letter)
            writer.write(entry.ordinal, result_line(letter))
            clients.lease.keep()
    reached(CrashPoint.BURY_WRITTEN)
    settlement = Settlement(succeeded=0, dead=tuple(letters), final_lines=writer.final_lines)
    return Settle(to, settlement, reason=message)


def dead_letter(entry: Entry, code: str, message: str, attempts: int) -> DeadLetter:
    return DeadLetter(
        ordinal=entry.ordinal,
        custom_id=entry.custom_id,
        code=code,
        message=message,
        attempts=attempts,
    )


def result_line(letter: DeadLetter) -> bytes:
    """Return the line that stands in the job's results for a dead letter, without a line feed."""
    return msgspec.json.encode(
        {
            "custom_id": letter.custom_id,
            "error": {"code": letter.code, "message": letter.message},
            "attempts": letter.attempts,
        }
    )
