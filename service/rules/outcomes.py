"""What a stage says should happen, and what became of every request.

The store's `apply` writes an outcome; nothing else does.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from service.rules.errors import Problem
from service.rules.lanes import Signs
from service.rules.spec import Spec
from service.rules.states import BatchState
from service.rules.work import FinalLines, Manifest, Segment, Shard

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
    cause: str | None = None
    """The message as `service.rules.alike` has it: by it, failures are grouped."""


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
    final_lines: FinalLines | None = None
    usage: Usage = Usage()

    @property
    def carried(self) -> int:
        return sum(retry.requests for retry in self.retries)


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
    """A probe takes only some requests of its part: the others become a waiting part."""

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
