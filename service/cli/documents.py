"""What the API's answers look like to a client. Unknown fields are let pass."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

T = TypeVar("T")

ENDED = frozenset({"completed", "cancelled", "rejected", "failed"})


@dataclass(frozen=True)
class Document(Generic[T]):
    """One JSON document: a single line that is safe to show, and what it says."""

    line: str
    value: T


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with an input. `line` is 1-based."""

    message: str
    line: int | None = None

    def __str__(self) -> str:
        return self.message if self.line is None else f"line {self.line:,}: {self.message}"


class Reason(msgspec.Struct, frozen=True):
    """Why nothing of a job is under way."""

    code: str
    detail: str
    until: datetime | None = None


class Forecast(msgspec.Struct, frozen=True):
    """When something will be done, or why nobody can tell."""

    p50: datetime | None = None
    p90: datetime | None = None
    reason: str | None = None


class Job(msgspec.Struct, frozen=True):
    id: str
    state: str
    endpoint: str
    account: str
    producer: str
    total: int
    succeeded: int
    failed: int
    pending: int
    attempts: int
    created_at: datetime
    usage: Usage = Usage()
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None
    metadata: dict[str, Any] = {}
    priority: int = 0
    max_attempts: int | None = None
    idempotency_key: str | None = None
    problems: list[Problem] | None = None
    """Of a rejected job."""
    cancel_requested_at: datetime | None = None
    parked_at: datetime | None = None
    """Set where only an operator can help."""
    last_error: str | None = None
    """The last trouble on Haulier's side of the work."""
    waiting: Reason | None = None
    forecast: Forecast | None = None
    canary: int | None = None
    canary_failures: int | None = None
    max_cost: str | None = None
    """USD."""
    deadline: datetime | None = None
    on_deadline: str | None = None
    deadline_at_risk_since: datetime | None = None
    deadline_missed_at: datetime | None = None
    raised_priority: int | None = None
    held_at: datetime | None = None
    """Set while the rest of the job waits for a decision."""
    check: msgspec.Raw = msgspec.Raw(b"null")
    """What its answers must pass, as JSON."""

    @property
    def uuid(self) -> UUID:
        return UUID(self.id)

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def served(self) -> bool:
        """Every request has succeeded."""
        return self.state == "completed" and self.failed == 0


class Batch(msgspec.Struct, frozen=True):
    """A part of a job, and the batch that it is in."""

    id: str | None
    state: str
    shard: int
    attempt: int
    model: str
    requests: int
    succeeded: int = 0
    dead: int = 0
    carried: int = 0
    progress: float | None = None
    """Of the provider, in percent."""
    batch_parts: int | None = None
    """How many parts share its batch."""
    provider_batch_id: str | None = None
    provider_status: str | None = None
    last_error: str | None = None
    oddities: dict[str, Any] | None = None


class Failure(msgspec.Struct, frozen=True):
    custom_id: str
    code: str
    message: str
    attempts: int


class Example(msgspec.Struct, frozen=True):
    """One of the requests that failed for a cause."""

    job_id: str
    custom_id: str
    message: str


class Cause(msgspec.Struct, frozen=True):
    """Failed requests with one code, whose messages are alike."""

    id: str
    code: str
    text: str
    requests: int
    jobs: int
    first_at: datetime
    last_at: datetime
    examples: list[Example]


class Causes(msgspec.Struct, frozen=True):
    """Causes, those of most requests first."""

    data: list[Cause]
    requests: int
    """How many failed requests were looked at."""
    is_complete: bool
    since: datetime | None = None


class Delivery(msgspec.Struct, frozen=True):
    """A notice."""

    id: str
    event: str
    target: dict[str, str]
    state: str
    tries: int
    last_error: str | None = None

    @property
    def to(self) -> str:
        """The webhook's address, or the task and its queue."""
        return self.target.get("webhook") or "{task} on {queue}".format_map(self.target)


class AuditLine(msgspec.Struct, frozen=True):
    """Something that an operator did."""

    at: datetime
    actor: str
    verb: str
    object: str
    credential: str | None = None
    origin: str | None = None
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


class RequestError(msgspec.Struct, frozen=True):
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class Attempt(msgspec.Struct, frozen=True):
    """A provider batch that a request was in."""

    attempt: int
    outcome: str
    batch_id: str | None = None
    provider_batch_id: str | None = None
    error: RequestError | None = None


class Request(msgspec.Struct, frozen=True):
    custom_id: str
    ordinal: int
    outcome: str
    attempts: list[Attempt]
    error: RequestError | None = None
    usage: Usage | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")


class Account(msgspec.Struct, frozen=True):
    name: str
    state: str
    configured: bool
    """Whether the API's process has a key for it. It needs none: the workers do."""
    paused_until: datetime | None = None
    reason: str | None = None
    paused_at: datetime | None = None
    """Set while an operator has paused it."""
    pause_reason: str | None = None


class Evidence(msgspec.Struct, frozen=True):
    """Why a lane is not healthy."""

    kind: str
    text: str
    batches: int


class Lane(msgspec.Struct, frozen=True):
    id: str
    account: str
    endpoint: str
    model: str
    state: str
    next: str
    since: datetime | None = None
    until: datetime | None = None
    evidence: Evidence | None = None
    paused_at: datetime | None = None
    paused_by: str | None = None
    """Only operators are told."""
    held_until: datetime | None = None
    forecast: Forecast | None = None


class Process(msgspec.Struct, frozen=True):
    """A worker, scheduler, inbox or notifier that says it lives."""

    id: str
    state: str
    host: str
    pid: int
    version: str
    queues: list[str]
    slots: int
    started_at: datetime
    age_seconds: float
    """Since its last heartbeat."""


class Change(msgspec.Struct, frozen=True):
    """What a verb would change: the line of the audit log that it would write."""

    verb: str
    object: str
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


class Preview(msgspec.Struct, frozen=True):
    """The answer to a dry run."""

    changes: list[Change]


class Status(msgspec.Struct, frozen=True):
    version: str
    workers: list[Process]
    schedulers: list[Process]
    inboxes: list[Process]
    notifiers: list[Process]
    open_batches: dict[str, int]


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    batches: int
    succeeded: int
    dead: int
    prompt_tokens: int
    completion_tokens: int
    estimated_cost: str | None = None
    """USD; None where the price of a model is not known."""
    unknown_models: list[str] = []


class UsageRow(Spent, frozen=True, kw_only=True):
    """What was not asked for is None."""

    day: str | None = None
    model: str | None = None
    producer: str | None = None
    account: str | None = None


class UsageReport(msgspec.Struct, frozen=True):
    first: str = msgspec.field(name="from")
    last: str = msgspec.field(name="to")
    data: list[UsageRow]
    total: Spent


class JobUsage(msgspec.Struct, frozen=True):
    total: Spent


class Page(msgspec.Struct, frozen=True):
    data: list[msgspec.Raw]
    next_cursor: str | None = None
