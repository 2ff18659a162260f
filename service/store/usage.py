"""Usage by day, producer, account and model. What settles is added in its transaction."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import Date, cast, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.outcomes import Settlement, Usage
from service.store.engine import Database
from service.store.models import Batch, Part
from service.store.models import Usage as UsageRow

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
    columns = [getattr(UsageRow, key) for key in keys]
    query = (
        select(*columns, *(func.sum(getattr(UsageRow, name)).label(name) for name in _SUMS))
        .where(UsageRow.day.between(since, until))
        .group_by(*columns)
        .order_by(*columns)
    )
    for producer in producers:
        if producer is not None:
            query = query.where(UsageRow.producer == producer)
    with db.begin() as session:
        return [_used(**row) for row in session.execute(query).mappings()]


def usage_of_job(db: Database, job_id: UUID) -> list[Used]:
    """Return the usage of a job's parts, by model and by the day on which they settled.

    A batch that it shares with other jobs counts as one of its batches.
    """
    day = cast(func.timezone("UTC", Part.finished_at), Date)
    sums = {name: func.sum(getattr(Part, name)) for name in _SUMS if name != "batches"}
    query = (
        select(
            day.label("day"),
            Part.model,
            func.count(Part.batch_id.distinct()).label("batches"),
            *(found.label(name) for name, found in sums.items()),
        )
        .join(Batch, Batch.id == Part.batch_id)
        .where(Part.job_id == job_id, Part.finished_at.is_not(None))
        .where(Batch.provider_batch_id.is_not(None))
        .group_by(day, Part.model)
        .order_by(Part.model, day)
    )
    with db.begin() as session:
        return [_used(**row) for row in session.execute(query).mappings()]


def _used(**row: Any) -> Used:
    # Sums of bigint are numeric to Postgres.
    row.update({name: int(row[name]) for name in _SUMS})
    return Used(**row)


def count_usage(
    session: Session, batch: Batch, settled: Sequence[Settlement], *, closes: bool
) -> None:
    """Add parts of a batch to their day (UTC), and the batch itself if this `closes` it.

    One that never was at Together used nothing.
    """
    if batch.provider_batch_id is None or not (settled or closes):
        return
    used = sum((settlement.usage for settlement in settled), Usage())
    row = insert(UsageRow).values(
        day=cast(func.timezone("UTC", func.now()), Date),
        producer=batch.producer,
        account=batch.account,
        model=batch.model,
        batches=int(closes),
        succeeded=sum(settlement.succeeded for settlement in settled),
        dead=sum(len(settlement.dead) for settlement in settled),
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        total_tokens=used.total_tokens,
    )
    session.execute(
        row.on_conflict_do_update(
            index_elements=["day", "producer", "account", "model"],
            set_={name: UsageRow.__table__.c[name] + row.excluded[name] for name in _SUMS},
        )
    )
