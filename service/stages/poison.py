"""Finding the bad lines of a batch that FAILED as a whole.

One bad line fails its whole batch (TOGETHER_API). Such a batch is divided into eight, without
pauses, until the bad lines stand alone. The line numbers in the provider's message do not help:
they count within chunks of unknown size.
"""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from service.rules.retry import MOST_LOST, MOST_SUSPECTS, BatchFault, alike, batch_fault
from service.rules.work import BatchClaim, Entry

PIECES = 8
"""Into how many batches a FAILED one is divided: 3 bad lines among 900 take four divisions."""


class Delay(StrEnum):
    """How long requests pause before their next batch."""

    NONE = "none"
    BACKOFF = "backoff"
    OUTAGE = "outage"


@dataclass(frozen=True)
class Division:
    """How requests go on: each group in a batch of its own. No groups: the requests fail for good.

    `poison` is how many times in a row their batches have FAILED as a whole.
    """

    groups: tuple[tuple[Entry, ...], ...] = ()
    poison: int = 0
    delay: Delay = Delay.NONE


def divide(batch: BatchClaim, entries: list[Entry]) -> Division:
    """Decide what happens to the requests of a FAILED batch that have no line in its files."""
    fault = batch_fault(batch.provider_error or "")
    if fault is BatchFault.HOPELESS:
        return Division()
    if fault in {BatchFault.FILE, BatchFault.OUTAGE}:
        # Together lost the file, or is in trouble. Nothing is wrong with the lines.
        again = tuple(msgspec.structs.replace(entry, lost=entry.lost + 1) for entry in entries)
        if any(entry.lost > MOST_LOST for entry in again):
            return Division()
        delay = Delay.OUTAGE if fault is BatchFault.OUTAGE else Delay.BACKOFF
        return Division((again,), batch.poison, delay)
    if fault is BatchFault.UNKNOWN and batch.poison == 0:
        return Division((tuple(entries),), 1, Delay.BACKOFF)
    if fault is BatchFault.UNKNOWN and _all_alike(batch):
        # All pieces fail for the same reason, so it is not a line: do not divide further.
        return Division()
    pieces = min(PIECES, len(entries), MOST_SUSPECTS - batch.suspects)
    return Division(_pieces(entries, pieces), batch.poison + 1) if pieces > 1 else Division()


def _pieces(entries: list[Entry], pieces: int) -> tuple[tuple[Entry, ...], ...]:
    """Cut into that many groups, whose sizes differ by one at most."""
    ends = [len(entries) * number // pieces for number in range(pieces + 1)]
    return tuple(tuple(entries[ends[n] : ends[n + 1]]) for n in range(pieces))


def _all_alike(batch: BatchClaim) -> bool:
    """Whether all pieces of one batch FAILED with the same message, apart from numbers."""
    own = alike(batch.provider_error or "")
    return bool(batch.sibling_errors) and {alike(e) for e in batch.sibling_errors} == {own}
