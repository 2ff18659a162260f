"""When the files of an ended batch are believed: looking again before anything is bought again.

Together may show a batch as ended before its files, or a file before all of its lines. What is
missing at the first look may only be late, and it may be paid for.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from service.rules.outcomes import Changes, Park, Wait
from service.rules.work import BatchClaim

FEW = 0.01
"""The share of a batch's requests below which missing lines are few."""
SOON = 20
"""Two equal looks settle what is clear if they lie at least this part of the patience apart."""
LOOKS = 4
"""So many equal looks in a row settle what is not clear: two may be chance."""
POLLS = 4
"""The same for a batch that Together gave back unfinished with whole files, in polls: missing lines
are normal there."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one fetch saw. `missing` has the requests that no line accounts for."""

    status: str
    missing: tuple[int | str, ...]
    requests: int
    files: int
    whole: bool
    """Whether every file has the size that Together says."""
    readable: int
    unreadable: int
    """Lines that cannot be read, or that belong to no request of the batch."""

    @property
    def digest(self) -> str:
        """Return a text that is equal for equal looks."""
        seen: Iterable[object] = (self.status, self.files, self.whole, self.unreadable)
        words = " ".join(map(str, (*seen, *self.missing)))
        return hashlib.sha256(words.encode()).hexdigest()

    @property
    def is_illegible(self) -> bool:
        """Whether most of what came back cannot be read. One request alone proves nothing."""
        return self.requests > 1 and self.unreadable > self.readable

    @property
    def is_clear(self) -> bool:
        """Whether the files are whole and little is missing in them."""
        few = len(self.missing) < self.requests * FEW
        return self.whole and self.files > 0 and (few or self.is_illegible)


def look_again(batch: BatchClaim, look: Look, patience: timedelta, poll: timedelta) -> Wait | None:
    """Return how long to wait for another look, or None if this one can be believed.

    A FAILED batch bought nothing, and dividing it must not wait.
    """
    if not look.missing or look.status == "FAILED":
        return None
    since = batch.unsettled_since or batch.now
    count, _, digest = (batch.look or "0 ").partition(" ")
    equal = look.digest == digest
    looks = int(count) + 1 if equal else 1
    equal_since = batch.look_since if equal and batch.look_since else batch.now
    waited, equal_for = batch.now - since, batch.now - equal_since
    soon = patience / SOON
    if look.status != "COMPLETED":
        soon = min(soon, poll * POLLS)
    clear = look.is_clear or (look.whole and look.status != "COMPLETED")
    enough = looks >= (2 if look.is_clear else LOOKS)
    if enough and equal_for >= soon and (clear or waited >= patience):
        return None
    # Longer and longer, but not past the moment at which this look could be believed.
    until = soon - equal_for if clear else max(patience - waited, soon - equal_for)
    pause = max(min(max(waited, poll), until), min(poll, soon))
    reason = (
        f"Together shows the batch as {look.status} without a line for"
        f" {len(look.missing):,} of {look.requests:,} requests; looking again"
    )
    seen = f"{looks} {look.digest}"
    changes = Changes(unsettled_since=since, look=seen, look_since=equal_since)
    return Wait(pause, changes, reason)


def illegible(look: Look) -> Park | None:
    """Park a batch if most of what came back cannot be read: to buy it again would not help."""
    if not look.missing or not look.is_illegible:
        return None
    return Park(
        f"most of what Together returned cannot be read: {look.unreadable:,} lines,"
        f" against {look.readable:,} that can"
    )
