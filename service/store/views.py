"""What is shown of a job, over HTTP and in notices alike."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from service.rules.states import JobState
from service.store.models import Job


class View(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class UsageView(View):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ProblemView(View):
    """One thing that is wrong; `line` counts from 1, null for the spec itself."""

    line: int | None
    message: str


class JobView(View):
    id: UUID
    state: JobState
    endpoint: str
    account: str
    producer: str
    total: int = Field(description="always succeeded + failed + pending")
    succeeded: int
    failed: int = Field(description="requests that failed for good: dead letters")
    pending: int
    attempts: int = Field(description="provider batches' tries of all requests together")
    usage: UsageView
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None = Field(description="why the job is rejected or failed")
    metadata: dict[str, Any]
    priority: int
    max_attempts: int
    input: str | None
    idempotency_key: str | None
    problems: Sequence[ProblemView] | None = Field(description="of a rejected job, up to 100")
    cancel_requested_at: datetime | None
    results_generation: int = Field(description="0 until there are results")
    parked_at: datetime | None = Field(description="set where only an operator can help")
    last_error: str | None = Field(description="the last trouble on our side of the work")

    @classmethod
    def of(cls, job: Job) -> Self:
        fields = {name: getattr(job, name) for name in cls.model_fields if hasattr(job, name)}
        return cls.model_validate(
            {
                **fields,
                "usage": UsageView.model_validate(job),
                # On the row, `metadata` is SQLAlchemy's own.
                "metadata": job.labels,
                "results_generation": job.generation,
            }
        )
