"""Finding what is wrong with a batch that FAILED as a whole.

One bad line fails its whole batch (TOGETHER_API). Such a batch is divided into eight, without
pauses, until the bad lines stand alone: a batch of several parts by parts, a part alone by lines.
The line numbers in the provider's message do not help: they count within chunks of unknown size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar
from uuid import UUID, uuid4

import msgspec

from service.rules.alike import alike
from service.rules.retry import MOST_LOST, MOST_SUSPECTS, BatchFault, batch_fault
from service.rules.work import BatchClaim, Entry, PartClaim

T = TypeVar("T")

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

    `poison` is how many times in a row their batches have FAILED as a whole. A part that shares
    its next batch with others has the `company` of these.
    """

    groups: tuple[tuple[Entry, ...], ...] = ()
    poison: int = 0
    delay: Delay = Delay.NONE
    company: UUID | None = None


def divide(batch: BatchClaim, entries: list[Entry], *, is_borne: bool = False) -> Division:
    """Decide what happens to requests of a FAILED batch, which are all that it has.

    They have no line in its files. What an ill lane does to them is no attempt if it `is_borne`.
    """
    fault = batch_fault(batch.provider_error or "")
    known = _without_division(batch, fault, entries, is_borne=is_borne)
    if known is not None:
        return known
    if fault is BatchFault.UNKNOWN and batch.poison == 0:
        return Division((tuple(entries),), 1, Delay.BACKOFF)
    pieces = _pieces(entries, _most(batch, len(entries)))
    return Division(pieces, batch.poison + 1) if len(pieces) > 1 else Division()


def divisions(
    batch: BatchClaim,
    parts: Sequence[PartClaim],
    is_borne: Callable[[PartClaim], bool] = lambda _: False,
) -> Callable[[PartClaim, list[Entry]], Division]:
    """Return what decides for the requests of each part of a FAILED batch that has several."""
    fault = batch_fault(batch.provider_error or "")
    if fault is BatchFault.UNKNOWN and batch.poison == 0:
        groups: tuple[tuple[PartClaim, ...], ...] = (tuple(parts),)
        delay = Delay.BACKOFF
    else:
        groups, delay = divide_parts(batch, parts), Delay.NONE
    companies = {part.id: company for group in groups for company in (uuid4(),) for part in group}

    together = uuid4() if batch.poison else None

    def decide(part: PartClaim, entries: list[Entry]) -> Division:
        known = _without_division(batch, fault, entries, is_borne=is_borne(part))
        if known is not None:
            return replace(known, company=together)
        company = companies.get(part.id)
        if company is None:
            return Division()
        return Division((tuple(entries),), batch.poison + 1, delay, company)

    return decide


def divide_parts(
    batch: BatchClaim, parts: Sequence[PartClaim]
) -> tuple[tuple[PartClaim, ...], ...]:
    """Divide the parts of a batch into groups; none if the search has cost too much."""
    pieces = _pieces(parts, _most(batch, len(parts)))
    return pieces if len(pieces) > 1 else ()


def _without_division(
    batch: BatchClaim, fault: BatchFault, entries: list[Entry], *, is_borne: bool
) -> Division | None:
    """Decide where it is known that no line is to blame; None if one may be."""
    if fault is BatchFault.HOPELESS:
        return Division()
    if fault is BatchFault.OUTAGE and is_borne:
        return Division((tuple(entries),), batch.poison, Delay.OUTAGE)
    if fault in {BatchFault.FILE, BatchFault.OUTAGE}:
        # Together lost the file, or is in trouble. Nothing is wrong with the lines.
        again = tuple(msgspec.structs.replace(entry, lost=entry.lost + 1) for entry in entries)
        if any(entry.lost > MOST_LOST for entry in again):
            return Division()
        delay = Delay.OUTAGE if fault is BatchFault.OUTAGE else Delay.BACKOFF
        return Division((again,), batch.poison, delay)
    if fault is BatchFault.UNKNOWN and batch.poison and _all_alike(batch):
        # All pieces fail for the same reason, so it is not a line: do not divide further.
        return Division()
    return None


def _most(batch: BatchClaim, size: int) -> int:
    return min(PIECES, size, MOST_SUSPECTS - batch.suspects)


def _pieces(whole: Sequence[T], pieces: int) -> tuple[tuple[T, ...], ...]:
    """Cut into that many groups, whose sizes differ by one at most."""
    ends = [len(whole) * number // max(pieces, 1) for number in range(pieces + 1)]
    return tuple(tuple(whole[ends[n] : ends[n + 1]]) for n in range(pieces))


def _all_alike(batch: BatchClaim) -> bool:
    """Whether all pieces of one batch FAILED with the same message, apart from numbers."""
    own = alike(batch.provider_error or "")
    return bool(batch.sibling_errors) and {alike(e) for e in batch.sibling_errors} == {own}
