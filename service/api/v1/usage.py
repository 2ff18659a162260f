"""The tokens used, and an estimate of their cost."""

import re
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from config.settings import PriceTable
from service.api.auth import READ, CalledBy
from service.api.services import Services, Uses
from service.api.v1.filtering import without_nul
from service.api.v1.jobs import VisibleJob
from service.rules.errors import BadInput, Problem
from service.rules.prices import Tokens, estimate, written
from service.store import usage as store
from service.store.engine import clock
from service.store.usage import KEYS, Used
from service.store.views import View

router = APIRouter(dependencies=[READ])

LONGEST = timedelta(days=366)
USUAL = timedelta(days=29)
"""The default span, if only its last day is given."""
MOST_ROWS = 10_000


def _day(value: object) -> object:
    if not isinstance(value, str) or re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        return value
    raise ValueError("must be a day like 2026-01-31")


def _keys(value: object) -> object:
    keys = value.split(",") if isinstance(value, str) else []
    if not set(keys) <= set(KEYS) or len(set(keys)) < len(keys):
        raise ValueError(f"must be some of {', '.join(KEYS)}, with commas between them")
    return value


Day = Annotated[date | None, BeforeValidator(_day)]


class UsageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    since: Day = Field(default=None, alias="from", description="The first day (UTC).")
    until: Day = Field(
        default=None, alias="to", description="The last day (UTC); today by default."
    )
    by: Annotated[str, BeforeValidator(_keys)] = Field(
        default="day,model", description=f"The keys to group by: some of {', '.join(KEYS)}."
    )
    producer: Annotated[str, AfterValidator(without_nul)] | None = Field(
        default=None, description="Show only this producer's usage."
    )


class SpentView(View):
    """Sums over settled batches, and an estimate of their cost."""

    batches: int
    succeeded: int
    dead: int = Field(description="Requests that failed permanently in these batches.")
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    estimated_cost: str | None = Field(
        description="USD, a decimal number; null if the price of a model is unknown."
    )
    unknown_models: Sequence[str] = Field(description="The models without a known price.")


class UsageRow(SpentView):
    """One row. Keys that are not in `by` are null."""

    day: date | None
    model: str | None
    producer: str | None
    account: str | None


class UsageReport(View):
    first: date = Field(serialization_alias="from")
    last: date = Field(serialization_alias="to")
    data: Sequence[UsageRow]
    total: SpentView


class ModelUsageView(SpentView):
    model: str


class JobUsageView(View):
    job_id: UUID
    data: Sequence[ModelUsageView]
    total: SpentView


@router.get("/usage")
def show_usage(
    services: Uses, caller: CalledBy, asked: Annotated[UsageQuery, Query()]
) -> UsageReport:
    """Show the usage of a span of days, with an estimate of its cost."""
    since, until = _span(asked, clock(services.db).date())
    by = asked.by.split(",")
    producers = [caller.sees, asked.producer]
    found = store.usage(services.db, since=since, until=until, producers=producers, by=by)
    prices = services.settings.prices
    groups = _grouped(found, by)
    if len(groups) > MOST_ROWS:
        raise BadInput([Problem(f"more than {MOST_ROWS:,} rows: ask for fewer days or keys")])
    return UsageReport(
        first=since,
        last=until,
        data=[
            UsageRow.model_validate(
                {**dict.fromkeys(KEYS), **dict(zip(by, key, strict=True)), **_spent(rows, prices)}
            )
            for key, rows in groups.items()
        ],
        total=SpentView(**_spent(found, prices)),
    )


@router.get("/jobs/{job_id}/usage")
def show_job_usage(job: VisibleJob, services: Uses) -> JobUsageView:
    """Show the usage of a job's settled batches, by model."""
    found = store.usage_of_job(services.db, job.id)
    prices = services.settings.prices
    return JobUsageView(
        job_id=job.id,
        data=[
            ModelUsageView(model=model, **_spent(rows, prices))
            for (model,), rows in _grouped(found, ["model"]).items()
        ],
        total=SpentView(**_spent(found, prices)),
    )


def spent_on(services: Services, day: date) -> SpentView:
    """Return what everybody used on a day (UTC)."""
    found = store.usage(services.db, since=day, until=day, producers=[], by=[])
    return SpentView(**_spent(found, services.settings.prices))


def _span(asked: UsageQuery, today: date) -> tuple[date, date]:
    """Return the first and the last day. Raises BadInput."""
    until = asked.until or max(today, asked.since or today)
    since = asked.since or max(until, date.min + USUAL) - USUAL
    if until < since:
        raise BadInput([Problem(f"query from: {since} is after {until}")])
    if until - since >= LONGEST:
        raise BadInput([Problem(f"query from: at most {LONGEST.days} days can be asked for")])
    return since, until


def _grouped(found: Iterable[Used], by: Sequence[str]) -> dict[tuple[Any, ...], list[Used]]:
    groups: dict[tuple[Any, ...], list[Used]] = {}
    for row in found:
        groups.setdefault(tuple(getattr(row, key) for key in by), []).append(row)
    return dict(sorted(groups.items()))


def _spent(rows: Sequence[Used], prices: PriceTable) -> dict[str, Any]:
    """Return the fields of a SpentView."""
    cost = estimate(
        prices,
        (Tokens(row.model, row.day, row.prompt_tokens, row.completion_tokens) for row in rows),
    )
    names = [name for name in SpentView.model_fields if name in Used.__dataclass_fields__]
    return {
        **{name: sum(getattr(row, name) for row in rows) for name in names},
        "estimated_cost": written(cost.usd),
        "unknown_models": cost.unknown_models,
    }
