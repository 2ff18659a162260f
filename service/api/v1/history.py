"""The history of one request: the parts and batches that carried it, and its result.

This module reads rows and blobs together, since parts are rows and their lines are in blobs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from service.payloads.blobs import Blobs
from service.payloads.request_index import find
from service.payloads.results import line_of
from service.rules.states import PartState
from service.rules.work import Entry
from service.store.engine import Database
from service.store.models import Batch, DeadLetter, Part
from service.store.parts import manifest_of
from service.store.requests import final_lines_of, shards, traces


class Fate(StrEnum):
    """What happened to a request in one part. The last part decides for the request."""

    PENDING = "pending"
    CARRIED = "carried"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Attempt:
    """A part that held the request, and its batch. `line` is the result line, if it gave one."""

    part: Part
    batch: Batch | None
    fate: Fate
    line: bytes | None


@dataclass(frozen=True, kw_only=True)
class History:
    """A request and the parts that held it, oldest first."""

    custom_id: str
    ordinal: int
    attempts: Sequence[Attempt]
    dead: DeadLetter | None
    sent: Entry
    """Where its line stands in the input of the first attempt."""

    @property
    def fate(self) -> Fate:
        return self.attempts[-1].fate if self.attempts else Fate.PENDING

    @property
    def line(self) -> bytes | None:
        """The request's result line, or None."""
        return self.attempts[-1].line if self.attempts else None


def history(db: Database, blobs: Blobs, job_id: UUID, custom_id: str) -> History | None:
    """Return the history of a request.

    None if the job has no such request, or its input has not been read yet.
    """
    for shard in shards(db, job_id):
        entry = find(blobs, shard.manifest, shard.requests, custom_id)
        if entry is not None:
            found = traces(db, job_id, shard.number, entry.ordinal)
            carriers = list(_carriers(blobs, found.parts, custom_id))
            last = carriers[-1][0] if carriers else None
            is_dead = found.dead is not None
            # A part that gave a line but was not the last one gave a failure: the request
            # was retried afterwards.
            return History(
                custom_id=custom_id,
                ordinal=entry.ordinal,
                attempts=[
                    _attempt(blobs, each, entry.ordinal, is_dead=is_dead or each[0] is not last)
                    for each in carriers
                ],
                dead=found.dead,
                sent=entry,
            )
    return None


Carrier = tuple[Part, Batch | None]


def _carriers(blobs: Blobs, parts: Sequence[Carrier], custom_id: str) -> Iterator[Carrier]:
    """Yield the parts of a shard that held a request, each the child of the one before."""
    parent: UUID | None = None
    for part, batch in parts:  # parents stand before their children
        if part.parent_id == parent and (
            parent is None or find(blobs, manifest_of(part), part.requests, custom_id)
        ):
            yield part, batch
            parent = part.id


def _attempt(blobs: Blobs, carrier: Carrier, ordinal: int, *, is_dead: bool) -> Attempt:
    """Return what happened to a part's request. If `is_dead`, its result line is a failure."""
    part, batch = carrier
    if part.state is not PartState.SETTLED:
        return Attempt(part, batch, Fate.PENDING, None)
    lines = final_lines_of(part)
    line = None if lines is None else line_of(blobs, lines, ordinal)
    if line is None:
        return Attempt(part, batch, Fate.CARRIED, None)
    return Attempt(part, batch, Fate.FAILED if is_dead else Fate.SUCCEEDED, line)
