"""The batches of a job on a terminal, as many of them as one can look at."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

from haulier_client import HaulierError
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.cli.api import Api, is_away
from service.cli.documents import Batch
from service.cli.screen import STYLES, clean

ROWS = 10
"""Batches that are shown one by one; the others are counted."""

FIRST = ("created", "ended", "uploaded", "queued", "waiting", "failed", "cancelled", "settled")
"""What is under way comes first."""


ODD = {
    "unknown": "of no request",
    "duplicate": "twice",
    "unreadable": "unreadable",
    "missing": "missing",
    "truncated": "cut off before any content",
    "empty": "without choices or text",
}
"""What the oddities of a batch are called."""


@dataclass(frozen=True)
class Batches:
    """What the batches of a job are doing."""

    batches: list[Batch] = field(default_factory=list)

    @property
    def under_way(self) -> float:
        """Requests that the provider has done by its own account, and that are not fetched yet."""
        running = (batch for batch in self.batches if batch.state == "created")
        return sum(batch.requests * (batch.progress or 0) / 100 for batch in running)

    def drawn(self) -> RenderableType:
        """A table, and a line about what it leaves out."""
        if not self.batches:
            return Text("")
        ordered = sorted(self.batches, key=lambda batch: _place(batch.state))
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("  batch", justify="right")
        table.add_column("state", min_width=8)
        for title in ("progress", "requests", "succeeded", "dead"):
            table.add_column(title, justify="right")
        for batch in ordered[:ROWS]:
            table.add_row(*_row(batch))
        lines = [
            *self._left_out(ordered[ROWS:]),
            *(f"odd answers: {words}" for words in self.odd()),
        ]
        return Group(table, *(Text(f"  {line}", style="dim") for line in lines))

    def _left_out(self, batches: list[Batch]) -> Iterator[str]:
        left = Counter(batch.state for batch in batches)
        if left:
            told = ", ".join(f"{count:,} {clean(state)}" for state, count in left.items())
            yield f"and {left.total():,} more: {told}"

    def odd(self) -> Iterator[str]:
        """What was odd about the answers in the batches, in a line, if anything was."""
        batches = {batch.id: batch.oddities or {} for batch in self.batches}
        counts = {
            words: sum(found[name] for found in batches.values() if type(found.get(name)) is int)
            for name, words in ODD.items()
        }
        if told := ", ".join(f"{count:,} {words}" for words, count in counts.items() if count):
            yield told


def batches_of(api: Api, job_id: UUID) -> Batches | None:
    """Return all batches, or None if the API is away just now."""
    try:
        return Batches([document.value for document in api.batches(job_id)])
    except HaulierError as error:
        if not is_away(error):
            raise
        return None


def _place(state: str) -> int:
    return FIRST.index(state) if state in FIRST else len(FIRST)


def _row(batch: Batch) -> tuple[Text, ...]:
    name = f"{batch.shard}" if batch.attempt == 1 else f"{batch.shard}, try {batch.attempt}"
    progress = "-"
    if batch.state == "created":
        progress = f"{batch.progress or 0:.0f} %"
    elif batch.state in {"ended", "settled"}:
        progress = "100 %"
    return (
        Text(name),
        Text(clean(batch.state), style=STYLES.get(batch.state, "")),
        Text(progress),
        *(Text(f"{count:,}") for count in (batch.requests, batch.succeeded, batch.dead)),
    )
