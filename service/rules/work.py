"""The values that pass between claim, stage and apply. Frozen, without storage or transport.

claim → stage(claim, clients) → Outcome → apply
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

import msgspec

from service.rules.errors import Problem
from service.rules.lanes import Signs
from service.rules.spec import Spec
from service.rules.states import BatchState, JobState, LaneState, PartState


class Ending(StrEnum):
    """How a batch ends without another word from Together."""

    CANCELLED = "cancelled"  # its jobs were cancelled: as far as nothing of it was sent
    DEAD = "dead"  # an operator gives it up: its requests become dead letters
    AGAIN = "again"  # the same, but its requests go into a new batch


# --- claims: what a stage gets -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class JobClaim:
    """A leased job: to be read (`input`, or the spec that was `enqueued`), or to be assembled."""

    id: UUID
    lease: UUID
    leased_until: datetime
    state: JobState
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
    canary: int | None = None
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


# --- settlements: what became of a part's requests ----------------------------------------------


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A request that failed for good."""

    ordinal: int
    custom_id: str
    code: str
    message: str
    attempts: int


@dataclass(frozen=True, kw_only=True)
class RetryPart:
    """Requests that go into a new part of the same job."""

    manifest: Manifest
    requests: int
    bytes: int
    delay: timedelta
    poison: int = 0
    """How many batches in a row with these requests FAILED as a whole."""
    company: UUID | None = None
    """The id of the batch that it shares with parts of the same company, and with no others."""
    outage: bool = False
    """Whether trouble at Together cost this round."""


@dataclass(frozen=True, kw_only=True)
class Oddities:
    """Answers that match no request. They are counted and never stop a batch."""

    unknown: int = 0
    duplicate: int = 0
    unreadable: int = 0
    missing: int = 0
    truncated: int = 0
    """Answers that the token limit cut before they had any content."""
    empty: int = 0
    """Successes that hold no answer: neither choices nor a transcript."""


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """An account of every request of a part: requests = succeeded + dead + carried.

    `final_lines` holds the final lines (successes and dead letters); None where there are none.
    """

    part: UUID
    job_id: UUID
    succeeded: int
    dead: tuple[DeadLetter, ...]
    retries: tuple[RetryPart, ...] = ()
    final_lines: "FinalLines | None" = None
    usage: Usage = Usage()

    @property
    def carried(self) -> int:
        return sum(retry.requests for retry in self.retries)


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


# --- outcomes: what a stage says should happen --------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Facts about the provider's side of a batch that a stage has learned. None: nothing new."""

    input_file_id: str | None = None
    provider_batch_id: str | None = None
    provider_status: str | None = None
    provider_error: str | None = None
    progress: float | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    cancel_sent: bool | None = None
    unsettled_since: datetime | None = None
    look: str | None = None
    look_since: datetime | None = None


@dataclass(frozen=True)
class Advance:
    """The batch moves on; the chain may go on with the next stage."""

    to: BatchState
    changes: Changes = Changes()
    delay: timedelta = timedelta(0)


@dataclass(frozen=True)
class Wait:
    """Nothing is wrong, nothing is ready. Look again after `delay`."""

    delay: timedelta
    changes: Changes = Changes()
    reason: str | None = None
    looked: bool = True
    """Whether anything was learned. If not, failures in a row still are in a row."""


@dataclass(frozen=True)
class Retry:
    """Something on the way did not work. Back off (or wait `delay`) and do the stage again."""

    reason: str
    delay: timedelta | None = None
    not_sent: bool = False
    """Whether it is certain that no create was sent, so that the intent can be cleared."""
    fault: bool = False
    """Whether the fault is ours and deterministic: after a few equal ones the row is parked."""
    not_there: bool = False
    """Whether Together answered 404 for the batch or its files. These are counted by themselves."""
    refused: bool = False
    """Whether Together refused it although the key works. These are counted by themselves, too."""
    create_failed: bool = False
    """Whether a create met with a transient error, which may be the lane's."""


@dataclass(frozen=True)
class Pause:
    """The account must slow down, for `delay` where Together named one.

    Or it is `blocked`: nothing goes until a probe succeeds; of `spending`, nothing that costs.
    """

    reason: str
    delay: timedelta | None = None
    blocked: bool = False
    spending: bool = False


@dataclass(frozen=True)
class Hold:
    """The lane's queue at Together is full: it must wait, `delay` where Together named one."""

    reason: str
    delay: timedelta | None = None


@dataclass(frozen=True)
class Settle:
    """Every request of these parts is accounted for.

    If `rest` is given, other parts of the batch are not, and it waits with them. If the batch is
    `given_up`, Together may still run it: a sweep will cancel it.
    """

    to: BatchState
    parts: tuple[Settlement, ...]
    changes: Changes = Changes()
    reason: str | None = None
    given_up: bool = False
    oddities: Oddities = Oddities()
    rest: Wait | None = None
    signs: Signs | None = None
    """What the batch says of its lane."""


@dataclass(frozen=True)
class SetApart:
    """These parts cannot be read, so they leave: each goes on in a batch of its own."""

    parts: tuple[UUID, ...]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A canary takes only some requests of its part: the others become a waiting part."""

    part: UUID
    travels: Manifest
    requests: int
    bytes: int
    stays: Manifest


@dataclass(frozen=True)
class Fail:
    """The job cannot be run (`rejected`: because of what was submitted)."""

    reason: str
    rejected: bool = False
    problems: tuple[Problem, ...] = ()
    more: int = 0
    read: bool = False
    """Whether the envelope of what was enqueued was found good, so that its notices may go out."""


@dataclass(frozen=True)
class Split:
    """The job's requests have been read and cut. `spec` is given if it was enqueued by SQL."""

    shards: tuple[Shard, ...]
    spec: Spec | None = None


@dataclass(frozen=True)
class Assembled:
    """The job's results stand in these segments, in input order."""

    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Park:
    """Nothing but an operator can help; the row stays where it is, visibly."""

    reason: str


Outcome = (
    Park
    | Advance
    | Wait
    | Retry
    | Pause
    | Hold
    | Settle
    | SetApart
    | Cut
    | Fail
    | Split
    | Assembled
)
