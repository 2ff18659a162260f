"""The shapes of the API's answers, which the OpenAPI document shows."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, Literal, Self, TypeVar
from uuid import UUID

from pydantic import Field

from service.rules.forecast import Forecast, NoForecast
from service.rules.states import BatchState
from service.store.models import Batch, DeadLetter, Event, Job, Part
from service.store.views import JobView, ProblemView, View
from service.store.waiting import Reason

V = TypeVar("V", bound=View)


class Page(View, Generic[V]):
    """A page of a list. `next_cursor` is null on the last page."""

    data: Sequence[V]
    next_cursor: str | None = None


class ReasonView(View):
    """Why a job waits. `code` is stable and for programs; `detail` is for people."""

    code: str = Field(
        description="One of worker, turn, inflight_batches, enqueued_tokens, account_paused,"
        " account_stopped,"
        " lane_held, retry, packing, failing, held, max_cost, budget,"
        " parked."
    )
    detail: str
    until: datetime | None = Field(description="When the wait ends by itself, if that is known.")


class JobDetail(JobView):
    waiting: ReasonView | None = Field(
        default=None, description="Why the job, or a batch that it cannot end without, waits."
    )

    check: Any = Field(default=None, description="The `check` of its spec; null without one.")

    @classmethod
    def explained(
        cls,
        job: Job,
        reason: Reason | None,
        check: Any,
        forecast: Forecast | NoForecast | None,
    ) -> Self:
        shown = None if reason is None else ReasonView.model_validate(reason)
        last_error = job.last_error or (None if reason is None else reason.error)
        more = {"waiting": shown, "last_error": last_error, "check": check}
        return cls.of(job, forecast).model_copy(update=more)


class BatchView(View):
    """A part of a job, with the provider batch that it is in. Counts and tokens are the part's own.

    Several small jobs may share a batch. A part that waits for one has the state `waiting`.
    """

    id: UUID | None = Field(description="The batch; null while the part waits for one.")
    part_id: UUID
    parent_id: UUID | None = Field(description="The part of which this one carries leftovers.")
    state: BatchState | Literal["waiting"]
    shard: int
    attempt: int
    account: str
    priority: int
    model: str
    bytes: int
    requests: int
    succeeded: int
    dead: int
    carried: int = Field(description="Requests that moved on to another part.")
    batch_parts: int | None = Field(description="How many parts share the batch.")
    batch_requests: int | None
    input_file_id: str | None
    provider_batch_id: str | None
    provider_status: str | None
    provider_error: str | None
    progress: float | None = Field(description="Percent, as Together reports it.")
    output_file_id: str | None
    error_file_id: str | None
    oddities: dict[str, Any] | None
    tries: int
    failures: int
    last_error: str | None
    not_before: datetime
    parked_at: datetime | None
    created_at: datetime
    submitted_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, found: tuple[Part, Batch | None]) -> Self:
        part, batch = found
        fields = {name: getattr(batch, name, None) for name in cls.model_fields}
        fields |= {name: getattr(part, name) for name in _OF_THE_PART}
        fields |= {
            "part_id": part.id,
            "state": "waiting" if batch is None else batch.state,
            "tries": 0 if batch is None else batch.tries,
            "failures": 0 if batch is None else batch.failures,
            "not_before": part.ready_at if batch is None else batch.not_before,
            "batch_parts": None if batch is None else batch.parts,
            "batch_requests": None if batch is None else batch.requests,
        }
        return cls.model_validate(fields)


_OF_THE_PART = (
    "parent_id",
    "shard",
    "attempt",
    "account",
    "priority",
    "model",
    "bytes",
    "requests",
    "succeeded",
    "dead",
    "carried",
    "created_at",
    "finished_at",
)


class EventView(View):
    id: int
    at: datetime
    batch_id: UUID | None
    source: str | None
    target: str
    detail: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> Self:
        return cls.model_validate(event)


class FailureView(View):
    """A dead letter: a request that failed permanently."""

    custom_id: str
    code: str
    message: str
    attempts: int

    @classmethod
    def of(cls, failure: DeadLetter) -> Self:
        return cls.model_validate(failure)


class AccountView(View):
    name: str
    state: Literal["open", "paused"]
    configured: bool = Field(
        description="Whether the API's process has a key for the account. Only workers need one."
    )
    paused_until: datetime | None = Field(description="Until when Together's refusal pauses it.")
    reason: str | None = Field(description="Together's words.")
    paused_at: datetime | None = Field(description="Set while an operator has paused it.")
    pause_reason: str | None = Field(description="The operator's words.")


class NewProducerView(View):
    name: str
    token: str = Field(
        description="The bearer token. It is shown only once; Haulier keeps only its hash."
    )


class ProcessView(View):
    id: str
    state: Literal["running", "draining", "drained"] = Field(
        description="`draining`: it takes nothing new; `drained`: and has nothing left."
    )
    host: str
    pid: int
    version: str
    queues: Sequence[str]
    slots: int
    started_at: datetime
    seen_at: datetime
    age_seconds: float = Field(
        description="Seconds since the last heartbeat, by the database's clock."
    )
    draining_since: datetime | None = Field(description="When an operator asked for that.")
    drained_at: datetime | None


class StatusView(View):
    version: str
    workers: Sequence[ProcessView]
    schedulers: Sequence[ProcessView]
    inboxes: Sequence[ProcessView]
    notifiers: Sequence[ProcessView]
    open_batches: dict[BatchState, int]


class ProblemDocument(View):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    problems: Sequence[ProblemView] | None = None
    more: int | None = Field(
        default=None, description="The number of problems beyond the first 100."
    )


class HealthView(View):
    status: Literal["ok"] = "ok"
