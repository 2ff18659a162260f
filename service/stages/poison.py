"""Finding the bad lines of a batch that FAILED as a whole.

One bad line fails its whole batch (TOGETHER_API). Such a batch is tried once more as a whole, then
cut in halves until the bad lines stand alone. The line numbers in the provider's message do not
help: they count within chunks of unknown size.
"""

import re
from dataclasses import dataclass

import msgspec

from service.rules.retry import MOST_LOST, BatchFault, batch_fault
from service.rules.work import BatchClaim, Entry

MOST_BATCHES = 64
"""How many batches the search for the bad lines of one shard may cost."""


@dataclass(frozen=True)
class Division:
    """How requests go on: each group in a batch of its own. No groups: the requests fail for good.

    `poison` is how many times in a row their batches have FAILED as a whole.
    """

    groups: tuple[tuple[Entry, ...], ...] = ()
    poison: int = 0


def divide(batch: BatchClaim, entries: list[Entry]) -> Division:
    """Decide what happens to the requests of a FAILED batch that have no line in its files."""
    fault = batch_fault(batch.provider_error or "")
    if fault is BatchFault.HOPELESS:
        return Division()
    if fault is BatchFault.FILE:
        # Together lost the file, and nothing is wrong with its lines: upload it again.
        again = tuple(msgspec.structs.replace(entry, lost=entry.lost + 1) for entry in entries)
        lost_too_often = any(entry.lost > MOST_LOST for entry in again)
        return Division() if lost_too_often else Division((again,), batch.poison)
    if batch.poison == 0:
        return Division((tuple(entries),), 1)
    if len(entries) == 1 or batch.suspects >= MOST_BATCHES:
        return Division()
    if fault is BatchFault.UNKNOWN and _alike(batch.sibling_error, batch.provider_error):
        # Both halves fail for the same reason, so it is not a line: do not cut further.
        return Division()
    middle = len(entries) // 2
    return Division((tuple(entries[:middle]), tuple(entries[middle:])), batch.poison + 1)


def _alike(one: str | None, other: str | None) -> bool:
    """Whether two messages are equal, apart from numbers."""
    if one is None or other is None:
        return False
    return re.sub(r"\d+", "#", one) == re.sub(r"\d+", "#", other)
