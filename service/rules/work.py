"""What a stage gets: a claim, and the requests and lines that a claim names.

claim → stage(claim, clients) → Outcome (`service.rules.outcomes`) → apply
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

import msgspec

from service.rules.states import BatchState, JobState, LaneState, PartState


class Ending(StrEnum):
    """How a batch ends without another word from Together."""

    CANCELLED = "cancelled"  # its jobs were cancelled: as far as nothing of it was sent
    DEAD = "dead"  # an operator gives it up: its requests become dead letters
    AGAIN = "again"  # the same, but its requests go into a new batch


@dataclass(frozen=True, kw_only=True)
class JobClaim:
    """A leased job: to be read (`input`, or the spec that was `enqueued`), or to be assembled."""

    id: UUID
    lease: UUID
    leased_until: datetime
    state: JobState
    created_at: datetime
    tries: int
    failures: int = 0
    producer: str
    endpoint: str
    account: str
    max_attempts: int
    input: str | None
    canary: int | None = None
    max_cost: Decimal | None = None
    enqueued: bytes | None = None
    cancel_requested: bool = False
    final_lines: "tuple[FinalLines, ...]" = ()


@dataclass(frozen=True, kw_only=True)
class BatchClaim:
    """A leased batch. Its parts are read only by those who need them (`Clients.parts`).

    `create_deadline` is set where an earlier claim may have sent a create whose answer is not
    known: the instant after which that POST can no longer be in flight. `now` is the database's
    clock at the claim.
    """

    id: UUID
    lease: UUID
    leased_until: datetime
    now: datetime
    state: BatchState
    tries: int
    failures: int
    not_there: int = 0
    """How many times in a row Together answered 404 for the batch or its files."""
    refusals: int = 0
    """How many times in a row Together refused it although the account's key works."""
    held: int = 0
    """How often it found its lane's queue full, or the credit used up."""
    poison: int = 0
    """How many batches in a row with these requests FAILED as a whole."""
    failed_first: UUID | None = None
    """The first of these batches."""
    sibling_errors: tuple[str, ...] = ()
    """The errors of the other pieces, if this is a piece of a batch and all others FAILED too."""
    suspects: int = 0
    """The number of batches that the search for bad lines has cost so far."""
    endpoint: str
    account: str
    account_blocked: bool
    key_refused_since: datetime | None = None
    lane_held: bool = False
    """Whether a full queue at Together held the lane: the next create that passes releases it."""
    lane_state: LaneState = LaneState.HEALTHY
    lane_is_uneasy: bool = False
    """Whether its lane is not healthy, or remembers failures."""
    probe: int | None = None
    """The most requests that it may send, if it goes to find out how its lane is."""
    model: str
    parts: int = 1
    renamed: bool = False
    """Whether its requests go by custom_ids of `rules.shared_ids`: several jobs share it."""
    requests: int
    cancel_requested: bool
    """Whether all of its jobs were cancelled."""
    cancelled_at: datetime | None = None
    ending: Ending | None = None
    create_deadline: datetime | None = None
    spent_file_ids: tuple[str, ...] = ()
    input_file_id: str | None = None
    provider_batch_id: str | None = None
    provider_status: str | None = None
    provider_error: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    cancel_sent: bool = False
    unsettled_since: datetime | None = None
    look: str | None = None
    look_since: datetime | None = None
    """What earlier fetches saw, if it did not account for every request (`stages.settling`)."""
    submitted_at: datetime | None = None
    expected: timedelta | None = None
    """The average time from create to end in its lane; None if no batch has ended yet."""

    @property
    def sent(self) -> bool:
        """Whether Together holds the batch, or may hold it."""
        return self.provider_batch_id is not None or self.create_deadline is not None

    @property
    def elapsed(self) -> timedelta:
        """The time since Together accepted the batch."""
        return self.now - self.submitted_at if self.submitted_at is not None else timedelta(0)


Manifest = str | bytes
"""Which requests a part carries: the name of a blob, or of a range of one; or, packed, itself."""


@dataclass(frozen=True, kw_only=True)
class PartClaim:
    """A part of a leased batch. `bytes` are those of its lines in the input blob."""

    id: UUID
    job_id: UUID
    state: PartState
    attempt: int
    requests: int
    bytes: int
    input_blob: str
    manifest: Manifest
    max_attempts: int
    cancelled: bool
    """Whether its job was cancelled."""
    outage_since: datetime | None = None
    """When trouble at Together first cost its requests a round that was no attempt."""
    check: str | None = None
    """The check of its job as JSON; equal ones are one object."""


Claim = JobClaim | BatchClaim


# --- manifests: which requests a part carries ---------------------------------------------------


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request of a part: the place of its line in the input blob, and its attempts so far."""

    custom_id: str
    ordinal: int
    offset: int
    length: int
    attempts: int = 0
    lost: int = 0
    """How often the provider returned the batch without serving this request; not an attempt."""
    answer: str | None = None
    """The range of a blob that holds its last answer, if that failed its check: it is paid for."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Requests of one model, in input order, that fit one provider batch."""

    model: str
    input_blob: str
    manifest: Manifest
    requests: int
    bytes: int
    held: bool = False
    """Whether it waits for how the canary of its job fares."""


# --- result lines ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FinalLines:
    """The final lines of a part that is done, in input order.

    `index_blob` holds their ordinals and lengths (see `service.payloads.results`); `bytes` is
    the size of `blob`. Both may be ranges of blobs that several parts share.
    """

    blob: str
    index_blob: str
    first_ordinal: int
    last_ordinal: int
    bytes: int
    requests: int


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of a job's results: a blob of result lines, or a range of one."""

    blob: str
    index_blob: str
    bytes: int
    requests: int
