"""A batch that Together refused to run as a whole, and what becomes of its requests.

One line that is not fit fails its whole batch (TOGETHER_API). Such a batch is tried whole once
more, then cut in halves until the bad lines stand alone. Line numbers in the provider's message
count within chunks of unknown size, so they are no help.
"""

import re
from dataclasses import dataclass

import msgspec

from service.rules.retry import MOST_LOST, BatchFault, batch_fault
from service.rules.work import BatchClaim, Entry

MOST_BATCHES = 64
"""How many batches a shard may cost for the search of its bad lines."""


@dataclass(frozen=True)
class Division:
    """How requests go on: in `groups`, a batch each, `poison` times suspected; or not at all."""

    groups: tuple[tuple[Entry, ...], ...] = ()
    poison: int = 0


def divide(batch: BatchClaim, entries: list[Entry]) -> Division:
    """Decide over the requests of a FAILED batch that nothing came back of."""
    fault = batch_fault(batch.provider_error or "")
    if fault is BatchFault.HOPELESS:
        return Division()
    if fault is BatchFault.FILE:
        # The file got lost on their side: upload it anew. Nothing is wrong with its lines.
        again = tuple(msgspec.structs.replace(entry, lost=entry.lost + 1) for entry in entries)
        lost_too_often = any(entry.lost > MOST_LOST for entry in again)
        return Division() if lost_too_often else Division((again,), batch.poison)
    if batch.poison == 0:
        return Division((tuple(entries),), 1)
    if len(entries) == 1 or batch.suspects >= MOST_BATCHES:
        return Division()
    if fault is BatchFault.UNKNOWN and _alike(batch.sibling_error, batch.provider_error):
        # Both halves fail, and not for a line: cutting further would only cost batches.
        return Division()
    middle = len(entries) // 2
    return Division((tuple(entries[:middle]), tuple(entries[middle:])), batch.poison + 1)


def _alike(one: str | None, other: str | None) -> bool:
    """Whether two messages say the same, numbers aside."""
    if one is None or other is None:
        return False
    return re.sub(r"\d+", "#", one) == re.sub(r"\d+", "#", other)
