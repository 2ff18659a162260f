"""Pack waiting parts into batches. Pure arithmetic.

Small parts of one group (lane, producer, priority) share batches, in the order in which they have
waited. A large one has its batch for itself, and so do the parts of one company.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Self
from uuid import UUID, uuid4

import msgspec

from config.settings import Settings

LARGE = 1000
"""A part of more requests than this shares its batch with no other."""
MOST_PARTS = 2000
"""The most parts of one batch."""
RENAMED = 32
"""The most bytes by which a line grows in a shared batch, where it gets another custom_id."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that a batch holds, and how long one that is not full waits."""

    requests: int
    bytes: int
    wait: timedelta

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            requests=settings.shard_requests,
            bytes=settings.shard_bytes,
            wait=settings.pack_seconds,
        )


class WaitingPart(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A part without a batch. One that goes again waits for company until `patient_until`."""

    id: UUID
    requests: int
    bytes: int
    since: datetime
    patient_until: datetime | None = None
    company: UUID | None = None
    own_names: UUID | None = None
    """Its job, if Together knows its requests by their own custom_ids: then only parts of that job
    can share its batch."""

    @property
    def is_alone(self) -> bool:
        return self.requests > LARGE or self.company is not None

    def is_ripe(self, now: datetime, *, idle: bool, wait: timedelta) -> bool:
        """Whether it need not wait for others. An `idle` group has sent nothing lately."""
        if self.patient_until is not None:
            return self.patient_until <= now
        return idle or self.since + wait <= now


@dataclass(eq=False)
class Pack:
    """The parts of a batch that is to be."""

    limits: Limits
    id: UUID = field(default_factory=uuid4)
    parts: list[WaitingPart] = field(default_factory=list)
    requests: int = 0
    bytes: int = 0
    is_full: bool = False

    def take(self, part: WaitingPart) -> bool:
        """Add a part. Return whether it fitted; from then on the pack counts as full."""
        size = part.bytes + RENAMED * part.requests
        fits = (
            len(self.parts) < MOST_PARTS
            and self.requests + part.requests <= self.limits.requests
            and self.bytes + size <= self.limits.bytes
        )
        if self.parts and not fits:
            self.is_full = True
            return False
        self.parts.append(part)
        self.requests += part.requests
        self.bytes += size
        return True

    def leave(self, gone: Collection[UUID]) -> None:
        """Let parts leave, by their ids."""
        if gone:
            self.parts = [part for part in self.parts if part.id not in gone]
            self.requests = sum(part.requests for part in self.parts)
            self.bytes = sum(part.bytes + RENAMED * part.requests for part in self.parts)

    @property
    def company(self) -> UUID | None:
        return self.parts[0].company

    @property
    def own_names(self) -> UUID | None:
        return self.parts[0].own_names


@dataclass(frozen=True)
class Small:
    """How many small parts of a group wait, at least, and how much that is."""

    parts: int = 0
    requests: int = 0
    bytes: int = 0

    def fill(self, limits: Limits) -> bool:
        """Whether they would fill a batch."""
        return (
            self.parts >= MOST_PARTS
            or self.requests >= limits.requests
            or self.bytes >= limits.bytes
        )

    def without(self, packs: Iterable[Pack]) -> "Small":
        gone = list(packs)
        return Small(
            self.parts - sum(len(pack.parts) for pack in gone),
            self.requests - sum(pack.requests for pack in gone),
            self.bytes - sum(pack.bytes for pack in gone),
        )


def packed(
    parts: Iterable[WaitingPart], limits: Limits, now: datetime, *, idle: bool, small: Small
) -> list[Pack]:
    """Pack the parts of one group, which are in the order in which they have waited.

    Returns the packs that may go now, in that order. `small` counts also those parts that `parts`,
    the beginning of what waits, does not hold.
    """
    shared: list[Pack] = []
    packs: list[Pack] = []
    companies: dict[UUID, Pack] = {}
    open_packs: dict[UUID | None, Pack] = {}
    for part in parts:
        if part.company is not None:
            if part.company not in companies:
                companies[part.company] = Pack(limits, part.company, is_full=True)
                packs.append(companies[part.company])
            _force(companies[part.company], part)
        elif part.is_alone:
            packs.append(Pack(limits, is_full=True))
            _force(packs[-1], part)
        elif (pack := open_packs.get(part.own_names)) is None or not pack.take(part):
            pack = open_packs[part.own_names] = Pack(limits)
            pack.take(part)
            packs.append(pack)
            if part.own_names is None:
                shared.append(pack)
    if shared and small.without(shared[:-1]).fill(limits):
        shared[-1].is_full = True
    return [p for p in packs if p.is_full or _is_ripe(p.parts, now, idle=idle, wait=limits.wait)]


def _force(pack: Pack, part: WaitingPart) -> None:
    pack.parts.append(part)
    pack.requests += part.requests
    pack.bytes += part.bytes


def _is_ripe(parts: Sequence[WaitingPart], now: datetime, *, idle: bool, wait: timedelta) -> bool:
    return any(part.is_ripe(now, idle=idle, wait=wait) for part in parts)
