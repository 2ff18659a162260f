"""The history of one request: the batches that carried it, and its result.

This module reads rows and blobs together, since batches are rows and their lines are in blobs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from service.payloads.blobs import Blobs
from service.payloads.request_index import find
from service.payloads.results import line_of
from service.rules.states import OPEN_BATCH_STATES
from service.store.engine import Database
from service.store.models import Batch, DeadLetter
from service.store.requests import final_lines_of, manifests, traces


class Fate(StrEnum):
    """What happened to a request in one batch. The last batch decides for the request."""

    PENDING = "pending"
    CARRIED = "carried"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class Attempt:
    """A batch that held the request. `line` is the request's result line, if it gave one."""

    batch: Batch
    fate: Fate
    line: bytes | None


@dataclass(frozen=True, kw_only=True)
class History:
    """A request and its batches, oldest first. It has no batches until the job is split."""

    custom_id: str
    ordinal: int
    attempts: Sequence[Attempt]
    dead: DeadLetter | None

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
    for manifest in manifests(db, job_id):
        entry = find(blobs, manifest.name, manifest.requests, custom_id)
        if entry is not None:
            found = traces(db, job_id, manifest.shard, entry.ordinal)
            carriers = list(_carriers(blobs, found.batches, custom_id))
            is_dead = found.dead is not None
            # A batch that gave a line but was not the last one gave a failure: the request
            # was retried afterwards.
            return History(
                custom_id=custom_id,
                ordinal=entry.ordinal,
                attempts=[
                    _attempt(
                        blobs, batch, entry.ordinal, is_dead=is_dead or batch is not carriers[-1]
                    )
                    for batch in carriers
                ],
                dead=found.dead,
            )
    return None


def _carriers(blobs: Blobs, batches: Sequence[Batch], custom_id: str) -> Iterator[Batch]:
    """Yield the batches of a shard that held a request, each the child of the one before."""
    parent: UUID | None = None
    for batch in batches:  # parents stand before their children
        if batch.parent_id == parent and (
            parent is None or find(blobs, batch.manifest_blob, batch.requests, custom_id)
        ):
            yield batch
            parent = batch.id


def _attempt(blobs: Blobs, batch: Batch, ordinal: int, *, is_dead: bool) -> Attempt:
    """Return what happened in a batch. If `is_dead`, its result line is a failure."""
    if batch.state in OPEN_BATCH_STATES:
        return Attempt(batch, Fate.PENDING, None)
    lines = final_lines_of(batch)
    line = None if lines is None else line_of(blobs, lines, ordinal)
    if line is None:
        return Attempt(batch, Fate.CARRIED, None)
    return Attempt(batch, Fate.FAILED if is_dead else Fate.SUCCEEDED, line)
