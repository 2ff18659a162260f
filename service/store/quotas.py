"""A producer's limits on open requests and on requests a day, counted as it submits.

Only producers that have such a limit pay for it: their submissions take turns on their row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Date,
    Text,
    Uuid,
    any_,
    bindparam,
    cast,
    func,
    or_,
    select,
    tuple_,
)
from sqlalchemy.orm import Session

from service.rules.errors import OverQuota
from service.store.models import Job, Producer

SOME_OF_IT = timedelta(minutes=1)
"""When to come back if too many requests are open: nobody knows when jobs end."""


@dataclass(frozen=True)
class Asked:
    """A job that is to be stored."""

    id: UUID
    producer: str
    key: str | None
    requests: int


@dataclass
class _Quota:
    """A producer's row, locked, and what is open of its jobs."""

    row: Producer
    today: date
    until_midnight: timedelta
    open: int

    def take(self, requests: int) -> OverQuota | None:
        """Count the requests of a new job, or say why they are too many."""
        # An `input` is counted when it is read; until then it counts as one request.
        asked = max(requests, 1)
        most_open, most_today = self.row.open_requests, self.row.requests_per_day
        used = self.row.counted_requests if self.row.counted_on == self.today else 0
        if most_open is not None and self.open + asked > most_open:
            wait = SOME_OF_IT if asked <= most_open else None
            return OverQuota(_words(asked, "open at a time", most_open, self.open), wait=wait)
        if most_today is not None and used + asked > most_today:
            wait = self.until_midnight if asked <= most_today else None
            return OverQuota(_words(asked, "a day (UTC)", most_today, used), wait=wait)
        self.open += requests
        if most_today is not None:
            self.row.counted_on, self.row.counted_requests = self.today, used + requests
        return None


def _words(asked: int, of_what: str, most: int, used: int) -> str:
    return (
        f"the producer may have {most:,} requests {of_what};"
        f" {used:,} are used, and {asked:,} were asked for"
    )


def over_quota(session: Session, asked: Sequence[Asked]) -> dict[UUID, OverQuota]:
    """Those that would pass a limit, by id; the others are counted.

    They must be in the order in which they are stored. What finds a job in its place is neither
    counted nor refused.
    """
    limited = _locked(session, {one.producer for one in asked})
    if not limited:
        return {}
    asked = [one for one in asked if one.producer in limited]
    ids, keys = _taken(session, asked)
    refused: dict[UUID, OverQuota] = {}
    for one in asked:
        key = one.producer, one.key
        if one.id in ids or key in keys:
            continue
        error = limited[one.producer].take(one.requests)
        if error is not None:
            refused[one.id] = error
        elif one.key is not None:
            keys.add(key)
    return refused


def count_late(session: Session, producer: str, requests: int) -> None:
    """Count requests that were not known when they were submitted: of an `input`, or enqueued."""
    for quota in _locked(session, {producer}).values():
        if quota.row.requests_per_day is not None:
            used = quota.row.counted_requests if quota.row.counted_on == quota.today else 0
            quota.row.counted_on, quota.row.counted_requests = quota.today, used + requests


def _locked(session: Session, names: set[str]) -> dict[str, _Quota]:
    """Those of the producers that have a limit. In one order for everybody."""
    rows = session.execute(_LIMITED, {"names": list(names)}).all()
    return {
        row.name: _Quota(row, day, left, _open(session, row.name) if row.open_requests else 0)
        for row, day, left in rows
    }


_TODAY = func.date_trunc("day", func.now(), "UTC")
_LIMITED = (
    select(Producer, cast(_TODAY, Date), _TODAY + timedelta(days=1) - func.now())
    .where(
        Producer.name == any_(bindparam("names", type_=ARRAY(Text))),
        or_(Producer.open_requests.is_not(None), Producer.requests_per_day.is_not(None)),
    )
    .order_by(Producer.name)
    .with_for_update(key_share=True)
)


def _open(session: Session, producer: str) -> int:
    return int(session.scalars(_OPEN, {"of": producer}).one())


# By its partial index: only unfinished jobs are in it.
_OPEN = select(func.coalesce(func.sum(Job.pending), 0)).where(
    Job.producer == bindparam("of"), Job.finished_at.is_(None)
)


_KNOWN = select(Job.id).where(Job.id == any_(bindparam("ids", type_=ARRAY(Uuid))))


def _taken(
    session: Session, asked: Sequence[Asked]
) -> tuple[set[UUID], set[tuple[str, str | None]]]:
    """The ids and keys among these that stand for a job already."""
    ids = set(session.scalars(_KNOWN, {"ids": [one.id for one in asked]}))
    keys = {(one.producer, one.key) for one in asked if one.key is not None}
    if not keys:
        return ids, set()
    found = session.execute(
        select(Job.producer, Job.idempotency_key).where(
            tuple_(Job.producer, Job.idempotency_key).in_(keys)
        )
    )
    return ids, {(producer, key) for producer, key in found}
