"""The public view of a job, shared by the HTTP API and the notices."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from service.rules.deadlines import OnDeadline
from service.rules.forecast import Forecast, NoForecast
from service.rules.prices import written
from service.rules.states import JobState
from service.store.models import Job


class View(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class UsageView(View):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ProblemView(View):
    """One problem of a submission.

    `line` counts from 1; it is null if the problem is in the spec itself.
    """

    line: int | None
    message: str


class ForecastView(View):
    """When it will be done, or why nobody can say."""

    p50: datetime | None = Field(default=None, description="It ends by then with 50 %.")
    p90: datetime | None = Field(default=None, description="It ends by then with 90 %.")
    basis: int | None = Field(
        default=None, description="How many ended jobs of the lane it rests on."
    )
    code: str | None = Field(
        default=None,
        description="Why there is none, for programs: not_yet, history, overdue, parked, held,"
        " account_paused, max_cost, budget, lane_paused, lane_resting, lane_probing, jobs.",
    )
    reason: str | None = Field(default=None, description="The same for people.")


class JobView(View):
    """A job and its progress."""

    id: UUID
    state: JobState
    endpoint: str
    account: str
    producer: str
    total: int = Field(description="The number of requests: always `succeeded + failed + pending`.")
    succeeded: int
    failed: int = Field(description="Requests that failed permanently (dead letters).")
    pending: int
    attempts: int = Field(description="The attempts of all requests, added up.")
    usage: UsageView
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None = Field(description="Why the job is `rejected` or `failed`.")
    metadata: dict[str, Any]
    priority: int
    max_attempts: int
    input: str | None
    idempotency_key: str | None
    problems: Sequence[ProblemView] | None = Field(
        description="The first 100 problems of a rejected job."
    )
    cancel_requested_at: datetime | None
    results_generation: int = Field(
        description="The version of the results; 0 until the job has results."
    )
    canary: int | None
    canary_failures: int | None = Field(description="How many requests of the canary may fail.")
    held_at: datetime | None = Field(
        description="Since when the rest of the job waits for `release` or `cancel`."
    )
    max_cost: str | None = Field(description="USD, as a decimal number.")
    deadline: datetime | None
    on_deadline: OnDeadline | None = Field(
        description="`priority` if the job's priority rises as its deadline comes nearer."
    )
    deadline_at_risk_since: datetime | None = Field(
        description="Since when the job is likely to miss its deadline, by its forecast."
    )
    deadline_missed_at: datetime | None = Field(
        description="When it was noticed that the deadline was over and the job was not finished."
    )
    raised_priority: int | None = Field(
        description="The priority of what waits of the job, while its deadline has raised it."
    )
    parked_at: datetime | None = Field(description="When the job stopped to wait for an operator.")
    last_error: str | None = Field(description="The last error on Haulier's side of the work.")
    forecast: ForecastView | None = Field(
        default=None, description="When the job will be done; null once it has ended."
    )

    @classmethod
    def of(cls, job: Job, forecast: Forecast | NoForecast | None = None) -> Self:
        """Return the view of a row; each field comes from the column of its name."""
        fields = {name: getattr(job, name) for name in cls.model_fields if hasattr(job, name)}
        return cls.model_validate(
            {
                **fields,
                "max_cost": None if job.max_cost is None else written(job.max_cost),
                "usage": UsageView.model_validate(job),
                # SQLAlchemy reserves the attribute `metadata` on the row.
                "metadata": job.labels,
                "results_generation": job.generation,
                "forecast": None if forecast is None else ForecastView.model_validate(forecast),
            }
        )
