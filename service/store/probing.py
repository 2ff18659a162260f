"""Let a few requests into lanes that are not healthy, to find out whether they are well again."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any
from uuid import UUID

from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import Session

from config.settings import PriceTable
from service.rules.admission import TOKENS_PER_BYTE, Capacity, LaneName, Scene
from service.rules.lanes import (
    PROBE,
    Health,
    Phase,
    back_by,
    counted,
    may_go_at_once,
    rank,
    sent,
    sent_at_once,
    tick,
)
from service.rules.packing import Limits, Pack, WaitingPart
from service.rules.states import LaneState
from service.store.due import Due
from service.store.forming import GROUP, Group, form
from service.store.health import health_of, waiting_requests, write
from service.store.lanes import token_rates
from service.store.models import Account, Lane
from service.store.spending import Asking, withhold

MOST_DEAR = 20
"""After so many jobs and producers that may not spend more, the next tick looks again."""
READ = 100
"""How many parts of a group are looked at from either end of what waits."""

# What waits in one lane: of each group (priority, producer) the longest and the newest. What pauses
# because of the lane's trouble is ready whenever the lane is.
_CANDIDATES = text("""
WITH RECURSIVE groups AS (
  (SELECT priority, producer FROM haulier.parts p WHERE state = 'waiting'
   AND p.account = :account AND p.endpoint = :endpoint AND p.model = :model
   ORDER BY priority, producer LIMIT 1)
  UNION ALL
  SELECT following.* FROM groups, LATERAL (
    SELECT p.priority, p.producer FROM haulier.parts p WHERE state = 'waiting'
    AND p.account = :account AND p.endpoint = :endpoint AND p.model = :model
    AND (p.priority, p.producer) > (groups.priority, groups.producer)
    ORDER BY p.priority, p.producer LIMIT 1) following
)
SELECT DISTINCT found.* FROM groups g, LATERAL (
  (SELECT p.id, p.job_id, p.account, p.endpoint, p.model, p.priority, p.producer, p.requests,
     p.bytes, p.ready_at, p.created_at, p.attempt, p.company, p.shard,
     CASE WHEN NOT p.renamed THEN p.job_id END AS own_names
   FROM haulier.parts p WHERE state = 'waiting' AND p.account = :account
   AND p.endpoint = :endpoint AND p.model = :model AND p.priority = g.priority
   AND p.producer = g.producer AND (p.ready_at <= now() OR (p.outage_since IS NOT NULL
     AND NOT EXISTS (SELECT FROM haulier.jobs j
                     WHERE j.id = p.job_id AND j.short_reason IS NOT NULL)))
   ORDER BY p.ready_at, p.shard LIMIT :read)
  UNION ALL
  (SELECT p.id, p.job_id, p.account, p.endpoint, p.model, p.priority, p.producer, p.requests,
     p.bytes, p.ready_at, p.created_at, p.attempt, p.company, p.shard,
     CASE WHEN NOT p.renamed THEN p.job_id END AS own_names
   FROM haulier.parts p WHERE state = 'waiting' AND p.account = :account
   AND p.endpoint = :endpoint AND p.model = :model AND p.priority = g.priority
   AND p.producer = g.producer AND p.ready_at <= now()
   ORDER BY p.ready_at DESC, p.shard DESC LIMIT :read)) found
WHERE NOT EXISTS (SELECT FROM haulier.producers o
                  WHERE o.name = g.producer AND o.short_until > now())
""")


@dataclass(frozen=True)
class _Row:
    """A group, as `service.store.forming` reads it."""

    account: str
    endpoint: str
    model: str
    priority: int
    producer: str
    now: datetime


def are_unhealthy(session: Session) -> bool:
    """Whether any lane is not healthy."""
    unhealthy = select(Lane.account).where(Lane.state != LaneState.HEALTHY).limit(1)
    return session.scalar(unhealthy) is not None


def send(
    session: Session,
    scene: Callable[[], Scene],
    capacity: Capacity,
    limits: Limits,
    *,
    rest: timedelta,
    prices: PriceTable,
) -> list[Due]:
    """Admit what probes the lanes that are not healthy. `scene` is what is under way."""
    paused = select(Account.name).where(
        or_(Account.paused_until > func.now(), Account.paused_at.is_not(None))
    )
    lanes = session.scalars(
        select(Lane)
        .where(Lane.state != LaneState.HEALTHY, Lane.paused_at.is_(None))
        .where(or_(Lane.held_until.is_(None), Lane.held_until <= func.now()))
        .where(Lane.account.not_in(paused))
        .order_by(Lane.account, Lane.endpoint, Lane.model)
        # Not waited for: whoever has a lane's row may wait for one of its parts.
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    return [
        due
        for lane in lanes
        for due in _Sender(session, lane, scene(), capacity, limits, rest, prices).send()
    ]


@dataclass(eq=False)
class _Sender:
    """Chooses what goes into one lane, whose row is locked."""

    _session: Session
    _lane: Lane
    _scene: Scene
    _capacity: Capacity
    _limits: Limits
    _rest: timedelta
    _prices: PriceTable
    _dear: set[UUID | str] = field(default_factory=set)
    """Jobs and producers that may not spend so much."""
    _admitted: list[Due] = field(default_factory=list)
    _found: Sequence[Any] = ()

    @cached_property
    def _name(self) -> LaneName:
        return self._lane.account, self._lane.endpoint, self._lane.model

    @cached_property
    def _now(self) -> datetime:
        return self._session.scalars(select(func.now())).one()

    @cached_property
    def _rate(self) -> float:
        return token_rates(self._session, [self._name]).get(self._name, TOKENS_PER_BYTE)

    def send(self) -> list[Due]:
        health = tick(health_of(self._lane), self._now, self._rest)
        if health.state is LaneState.RESTING:
            health = self._at_once(health)
        elif health.phase is Phase.TENTH:
            waiting = waiting_requests(self._session, self._lane)
            health = counted(health, waiting, self._now)
            if health.budget:
                health = self._tenth(health, health.budget)
        elif not health.out:
            health = self._few(health)
        else:
            # Another one is under way, which may take long.
            health = self._at_once(health)
        write(self._session, self._lane, health)
        return self._admitted

    def _candidates(self) -> Sequence[Any]:
        lane = self._lane
        name = {"account": lane.account, "endpoint": lane.endpoint, "model": lane.model}
        self._found = self._session.execute(_CANDIDATES, {**name, "read": READ}).all()
        return self._found

    def _at_once(self, health: Health) -> Health:
        """Let new jobs send a probe, one of each producer."""
        producers: set[str] = set()
        fit = [
            row
            for row in self._candidates()
            if row.attempt == 1
            and row.company is None
            and may_go_at_once(health, row.job_id, row.producer, row.created_at)
        ]
        for row in sorted(fit, key=lambda row: (-row.priority, row.ready_at)):
            if row.producer in producers or self._is_dear(row):
                continue
            if self._form(row, fit, PROBE):
                health = sent_at_once(health, row.job_id, row.producer)
            if not self._is_dear(row):
                producers.add(row.producer)
        return health

    def _few(self, health: Health) -> Health:
        rows = self._candidates()
        fit = [row for row in rows if row.company is None]
        if not fit:
            return self._whole(health, rows)
        for first in sorted(fit, key=partial(_order, health)):
            if self._is_dear(first):
                continue
            best = rank(health, first.job_id, first.producer)
            like = [row for row in fit if rank(health, row.job_id, row.producer) == best]
            requests = self._form(first, like, health.probe)
            if not self._is_dear(first):
                return self._probe(health, requests)
        return health

    def _whole(self, health: Health, rows: Sequence[Any]) -> Health:
        """Send what must travel together, all of it: nothing else waits."""
        if not rows:
            return health
        for first in sorted(rows, key=partial(_order, health)):
            if self._is_dear(first):
                continue
            requests = self._form(first, rows, None)
            if not self._is_dear(first):
                return self._probe(health, requests)
        return health

    def _tenth(self, health: Health, budget: int) -> Health:
        found = self._candidates()
        rows = [row for row in found if row.company is None]
        if not rows:
            return self._whole(health, found)
        groups: dict[tuple[int, str], list[Any]] = {}
        for row in sorted(rows, key=lambda row: (row.ready_at, row.shard)):
            groups.setdefault((-row.priority, row.producer), []).append(row)
        most = min(max(-(-budget // max(len(groups), 1)), PROBE), self._limits.requests)
        for key in sorted(groups):
            if not health.budget:
                break
            for first in groups[key]:
                if self._is_dear(first):
                    continue
                health = self._probe(health, self._form(first, rows, most))
                if not self._is_dear(first):
                    break
        return health

    def _is_dear(self, row: Any) -> bool:
        """Whether its job or its producer may not spend so much, or too many others may not."""
        return (
            row.job_id in self._dear or row.producer in self._dear or len(self._dear) >= MOST_DEAR
        )

    def _probe(self, health: Health, requests: int) -> Health:
        if not requests:
            return health
        seconds = self._lane.seconds
        usual = None if seconds is None else timedelta(seconds=seconds)
        until = back_by(health, self._now, self._rest, usual)
        return sent(health, requests, until)

    def _form(self, first: Any, rows: Iterable[Any], most: int | None) -> int:
        """Make a batch that begins with this part. Return how many requests it may send."""
        row = _Row(**{name: getattr(first, name) for name in GROUP}, now=self._now)
        pack = self._pack(first, rows, most)
        group = Group(row, [pack], self._rate)
        if self._scene.lanes[self._name].lacks(self._capacity, group.tokens(pack)) is not None:
            return 0
        if self._withheld(first, pack):
            return 0
        size = pack.requests if most is None else most
        admitted = form(self._session, [(group, pack)], {pack.id: size})
        if not admitted:
            return 0
        self._admitted += admitted
        self._scene.lanes[self._name].batches += 1
        return min(size, pack.requests)

    def _withheld(self, first: Any, pack: Pack) -> bool:
        """Take from a pack what may not be spent for. Return whether it must stay behind."""
        asking = Asking(pack, self._name, first.producer)
        jobs = {row.id: row.job_id for row in self._found}
        asked = {part.id for part in pack.parts}
        stays = bool(withhold(self._session, [asking], self._prices, self._now))
        gone = asked - {part.id for part in pack.parts}
        self._dear |= {jobs[part_id] for part_id in gone}
        if stays and not gone:
            self._dear.add(first.producer)
        return stays or first.id in gone

    def _pack(self, first: Any, rows: Iterable[Any], most: int | None) -> Pack:
        limits = self._limits
        if first.company is not None:
            mine = [row for row in rows if row.company == first.company]
            pack = Pack(limits, first.company)
            pack.parts = [_waiting(row) for row in mine]
            pack.requests = sum(row.requests for row in mine)
            pack.bytes = sum(row.bytes for row in mine)
            return pack
        size = limits.requests if most is None else most
        pack = Pack(Limits(requests=size, bytes=limits.bytes, wait=limits.wait))
        pack.take(_waiting(first))
        for row in sorted(rows, key=lambda row: (row.ready_at, row.shard)):
            fellow = (row.priority, row.producer) == (first.priority, first.producer)
            if fellow and row.id != first.id and row.own_names == first.own_names:
                pack.take(_waiting(row))
        return pack


def _order(health: Health, row: Any) -> Any:
    return rank(health, row.job_id, row.producer), row.ready_at, row.shard


def _waiting(row: Any) -> WaitingPart:
    return WaitingPart(
        id=row.id,
        requests=row.requests,
        bytes=row.bytes,
        since=row.ready_at,
        company=row.company,
        own_names=row.own_names,
    )
