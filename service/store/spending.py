"""Letting in only what may be spent: the `max_cost` of jobs, and the budgets of producers.

Only jobs and producers that have such a bound pay for it.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Date, Text, Uuid, any_, bindparam, cast, func, select, text, update
from sqlalchemy.orm import Session

from config.settings import PriceTable
from service.rules.admission import LaneName
from service.rules.budgets import (
    LOOK_AGAIN,
    Load,
    Purse,
    Spent,
    day_after,
    likely_cost,
    month_after,
)
from service.rules.packing import Pack
from service.rules.prices import Tokens, price
from service.rules.states import OPEN_BATCH_STATES, PartState
from service.store.lanes import token_rates
from service.store.models import Batch, Job, Part, Producer
from service.store.models import Usage as UsageRow
from service.store.models.base import one_of


@dataclass(frozen=True)
class Asking:
    """A pack that is to be let in, with its lane and producer."""

    pack: Pack
    lane: LaneName
    producer: str


def withhold(
    session: Session,
    asking: Sequence[Asking],
    prices: PriceTable,
    now: datetime,
) -> set[UUID]:
    """Take from packs what may not be spent for. Return the ids of packs that must stay behind."""
    stay = _over_budget(session, asking, prices, now)
    rest = [one for one in asking if one.pack.id not in stay]
    _over_max_cost(session, rest, prices, now)
    return stay | {one.pack.id for one in rest if not one.pack.parts}


# --- the max_cost of jobs -----------------------------------------------------------------------

_ANY_CAPPED = text(
    "SELECT EXISTS (SELECT FROM haulier.jobs WHERE max_cost IS NOT NULL AND finished_at IS NULL)"
)
_CAPPED = (
    select(Part.id, Part.job_id, Part.requests, Part.bytes, Job.max_cost)
    .join(Job, Job.id == Part.job_id)
    .where(Part.id == any_(bindparam("ids", type_=ARRAY(Uuid))), Job.max_cost.is_not(None))
    .order_by(Part.job_id, Part.ready_at, Part.shard)
)


def _over_max_cost(
    session: Session, asking: Sequence[Asking], prices: PriceTable, now: datetime
) -> None:
    if not session.scalars(_ANY_CAPPED).one():
        return
    packs = {part.id: one for one in asking for part in one.pack.parts}
    rows = session.execute(_CAPPED, {"ids": list(packs)}).all()
    if not rows:
        return
    lanes = {packs[row.id].lane for row in rows}
    rates = token_rates(session, lanes)
    spent, purses = _of_jobs(session, {row.job_id: row.max_cost for row in rows}, prices, now)
    refused: dict[UUID, str] = {}
    leaving: defaultdict[UUID, set[UUID]] = defaultdict(set)
    for row in rows:
        one = packs[row.id]
        if one.pack.company is not None:
            continue  # it bought nothing yet, and goes together or not at all
        load = Load(one.lane[2], row.requests, row.bytes, rates.get(one.lane))
        cost = spent[row.job_id].likely_cost(prices, load, now.date())
        purse = purses[row.job_id]
        if row.job_id in refused or not purse.take(cost):
            refused.setdefault(row.job_id, purse.words(cost))
            leaving[one.pack.id].add(row.id)
    for one in asking:
        one.pack.leave(leaving[one.pack.id])
    gone = [part for parts in leaving.values() for part in parts]
    _note(session, refused, {row.job_id for row in rows}, gone)


def _note(
    session: Session, refused: dict[UUID, str], asked: Collection[UUID], parts: Sequence[UUID]
) -> None:
    """Write down why jobs wait, and let their parts wait for a while."""
    if parts:
        free = (
            select(Part.id)
            .where(Part.id == any_(cast(sorted(parts), ARRAY(Uuid))))
            .where(Part.state == PartState.WAITING)
            .order_by(Part.id)
            .with_for_update(skip_locked=True)
            .cte("free")
        )
        session.execute(
            update(Part)
            .where(Part.id == free.c.id)
            .values(ready_at=func.now() + LOOK_AGAIN)
            .execution_options(synchronize_session=False)
        )
    for job_id in sorted(asked):
        # Not waited for: whoever has the row may wait for these parts.
        mine = (
            select(Job.id).where(Job.id == job_id).with_for_update(skip_locked=True, key_share=True)
        )
        session.execute(
            update(Job)
            .where(Job.id.in_(mine), Job.short_reason.is_distinct_from(refused.get(job_id)))
            .values(short_reason=refused.get(job_id))
            .execution_options(synchronize_session=False)
        )


def _of_jobs(
    session: Session, most: dict[UUID, Decimal], prices: PriceTable, now: datetime
) -> tuple[dict[UUID, Spent], dict[UUID, Purse]]:
    """Return what jobs have spent, and the purses that they have left."""
    day = cast(func.timezone("UTC", func.coalesce(Part.finished_at, func.now())), Date)
    rows = session.execute(
        select(
            Part.job_id,
            Part.state,
            Part.account,
            Part.endpoint,
            Part.model,
            day.label("day"),
            func.sum(Part.requests).label("requests"),
            func.sum(Part.bytes).label("bytes"),
            func.sum(Part.prompt_tokens).label("prompt"),
            func.sum(Part.completion_tokens).label("completion"),
        )
        .where(Part.job_id == any_(cast(list(most), ARRAY(Uuid))), Part.state != PartState.WAITING)
        .group_by(Part.job_id, Part.state, Part.account, Part.endpoint, Part.model, day)
    ).all()
    spent = {job_id: Spent() for job_id in most}
    for row in rows:
        if row.state is PartState.SETTLED:
            used = Tokens(row.model, row.day, int(row.prompt), int(row.completion))
            before = spent[row.job_id]
            spent[row.job_id] = Spent(
                before.usd + (price(prices, used) or 0), before.requests + int(row.requests)
            )
    rates = token_rates(session, {(row.account, row.endpoint, row.model) for row in rows})
    under_way: defaultdict[UUID, Decimal] = defaultdict(Decimal)
    for row in rows:
        if row.state is PartState.TRAVELLING:
            rate = rates.get((row.account, row.endpoint, row.model))
            load = Load(row.model, int(row.requests), int(row.bytes), rate)
            under_way[row.job_id] += spent[row.job_id].likely_cost(prices, load, now.date())
    purses = {
        job_id: Purse(bound, spent[job_id].usd, under_way[job_id]) for job_id, bound in most.items()
    }
    return spent, purses


# --- the budgets of producers -------------------------------------------------------------------


def _over_budget(
    session: Session,
    asking: Sequence[Asking],
    prices: PriceTable,
    now: datetime,
) -> set[UUID]:
    names = sorted({one.producer for one in asking})
    bounded = session.execute(_BOUNDED, {"names": names}).all()
    if not bounded:
        return set()
    rates = token_rates(session, {one.lane for one in asking})
    purses = _of_producers(session, bounded, prices, now)
    short: dict[str, tuple[datetime | None, str | None]] = {}
    stay: set[UUID] = set()
    for one in asking:
        found = purses.get(one.producer)
        if found is None:
            continue
        load = Load(
            one.lane[2],
            one.pack.requests,
            sum(part.bytes for part in one.pack.parts),
            rates.get(one.lane),
        )
        cost = likely_cost(prices, load, now.date())
        if one.producer in short:
            stay.add(one.pack.id)
            continue
        for what, purse, ends in found:
            if not purse.take(cost):
                again = ends if purse.is_used_up else min(ends, now + LOOK_AGAIN)
                short[one.producer] = (again, f"budget for the {what}: {purse.words(cost)}")
                stay.add(one.pack.id)
                break
    for name in sorted(purses):
        until, reason = short.get(name, _ENOUGH)
        # Not waited for: whoever has the row may be submitting.
        mine = (
            select(Producer.name)
            .where(Producer.name == name)
            .with_for_update(skip_locked=True, key_share=True)
        )
        session.execute(
            update(Producer)
            .where(Producer.name.in_(mine), Producer.short_reason.is_distinct_from(reason))
            .values(short_until=until, short_reason=reason)
            .execution_options(synchronize_session=False)
        )
    return stay


_ENOUGH = (None, None)
_BOUNDED = select(Producer.name, Producer.usd_per_day, Producer.usd_per_month).where(
    Producer.name == any_(bindparam("names", type_=ARRAY(Text))),
    Producer.usd_per_day.is_not(None) | Producer.usd_per_month.is_not(None),
)

# The words of a partial index.
_OPEN = text(f"batches.parked_at IS NULL AND {one_of('batches.state', OPEN_BATCH_STATES)}")

_Bound = tuple[str, Purse, datetime]
"""The span of a budget, its purse, and when it ends."""


def _of_producers(
    session: Session, bounded: Iterable[Any], prices: PriceTable, now: datetime
) -> dict[str, list[_Bound]]:
    bounds = {row.name: (row.usd_per_day, row.usd_per_month) for row in bounded}
    names = cast(sorted(bounds), ARRAY(Text))
    today = func.timezone("UTC", func.now())
    used = session.execute(
        select(
            UsageRow.producer,
            UsageRow.day,
            UsageRow.model,
            (UsageRow.day == cast(today, Date)).label("is_today"),
            func.sum(UsageRow.prompt_tokens).label("prompt"),
            func.sum(UsageRow.completion_tokens).label("completion"),
        )
        .where(UsageRow.producer == any_(names))
        .where(UsageRow.day >= cast(func.date_trunc("month", today), Date))
        .group_by(UsageRow.producer, UsageRow.day, UsageRow.model)
    ).all()
    by_day: defaultdict[str, Decimal] = defaultdict(Decimal)
    by_month: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in used:
        tokens = Tokens(row.model, row.day, int(row.prompt), int(row.completion))
        cost = price(prices, tokens) or Decimal(0)
        by_month[row.producer] += cost
        by_day[row.producer] += cost if row.is_today else 0
    going = session.execute(
        select(
            Batch.producer,
            Batch.account,
            Batch.endpoint,
            Batch.model,
            func.sum(Batch.requests).label("requests"),
            func.sum(Batch.bytes).label("bytes"),
        )
        .where(_OPEN, Batch.producer == any_(names))
        .group_by(Batch.producer, Batch.account, Batch.endpoint, Batch.model)
    ).all()
    rates = token_rates(session, {(row.account, row.endpoint, row.model) for row in going})
    travelling: defaultdict[str, Decimal] = defaultdict(Decimal)
    for batch in going:
        rate = rates.get((batch.account, batch.endpoint, batch.model))
        load = Load(batch.model, int(batch.requests), int(batch.bytes), rate)
        travelling[batch.producer] += likely_cost(prices, load, now.date())
    purses: defaultdict[str, list[_Bound]] = defaultdict(list)
    for name, (day, month) in bounds.items():
        if day is not None:
            purse = Purse(day, by_day[name], travelling[name])
            purses[name].append(("day", purse, day_after(now)))
        if month is not None:
            purse = Purse(month, by_month[name], travelling[name])
            purses[name].append(("month", purse, month_after(now)))
    return purses
