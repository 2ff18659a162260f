"""Usage by day, producer, account and model. Each settled batch is added in its transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Date, cast, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.store.engine import Database
from service.store.models import Batch, Usage

_SUMS = ("batches", "succeeded", "dead", "prompt_tokens", "completion_tokens", "total_tokens")
KEYS = ("day", "model", "producer", "account")
"""The keys by which usage can be grouped."""


@dataclass(frozen=True, kw_only=True)
class Used:
    """Sums over settled batches. Keys that were not asked for are None."""

    day: date
    model: str
    producer: str | None = None
    account: str | None = None
    batches: int
    succeeded: int
    dead: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


def usage(
    db: Database, *, since: date, until: date, producers: Sequence[str | None], by: Sequence[str]
) -> list[Used]:
    """What was used on the days from `since` to `until`, both included, by day and model and the
    other keys in `by`; only what every one of `producers` may see (None: no bound)."""
    keys = [key for key in KEYS if key in {"day", "model", *by}]
    columns = [getattr(Usage, key) for key in keys]
    query = (
        select(*columns, *(func.sum(getattr(Usage, name)).label(name) for name in _SUMS))
        .where(Usage.day.between(since, until))
        .group_by(*columns)
        .order_by(*columns)
    )
    for producer in producers:
        if producer is not None:
            query = query.where(Usage.producer == producer)
    with db.begin() as session:
        return [_used(**row) for row in session.execute(query).mappings()]


def usage_of_job(db: Database, job_id: UUID) -> list[Used]:
    """Return the usage of a job's batches, by model and by the day on which they settled."""
    day = cast(func.timezone("UTC", Batch.finished_at), Date)
    sums = {name: func.sum(getattr(Batch, name)) for name in _SUMS if name != "batches"}
    query = (
        select(
            day.label("day"),
            Batch.model,
            func.sum(literal(1)).label("batches"),
            *(found.label(name) for name, found in sums.items()),
        )
        .where(Batch.job_id == job_id, Batch.finished_at.is_not(None))
        .where(Batch.provider_batch_id.is_not(None))
        .group_by(day, Batch.model)
        .order_by(Batch.model, day)
    )
    with db.begin() as session:
        return [_used(**row) for row in session.execute(query).mappings()]


def _used(**row: Any) -> Used:
    # Sums of bigint are numeric to Postgres.
    row.update({name: int(row[name]) for name in _SUMS})
    return Used(**row)


def count_usage(session: Session, producer: str, batch: Batch) -> None:
    """Add a settled batch to its day (UTC); one that never was at Together used nothing."""
    if batch.provider_batch_id is None:
        return
    row = insert(Usage).values(
        day=cast(func.timezone("UTC", func.now()), Date),
        producer=producer,
        account=batch.account,
        model=batch.model,
        batches=1,
        succeeded=batch.succeeded,
        dead=batch.dead,
        prompt_tokens=batch.prompt_tokens,
        completion_tokens=batch.completion_tokens,
        total_tokens=batch.total_tokens,
    )
    session.execute(
        row.on_conflict_do_update(
            index_elements=["day", "producer", "account", "model"],
            set_={name: Usage.__table__.c[name] + row.excluded[name] for name in _SUMS},
        )
    )
