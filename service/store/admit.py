"""Let waiting parts in, packed into batches, as far as there is capacity.

`service.rules.packing` packs, and `service.rules.admission` chooses among the packs.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from config.settings import PriceTable
from service.rules.admission import TOKENS_PER_BYTE, Capacity, LaneName, Scene, choose
from service.rules.packing import (
    LARGE,
    MOST_PARTS,
    RENAMED,
    Limits,
    Pack,
    Small,
    WaitingPart,
    packed,
)
from service.store.chores import take_turn
from service.store.due import Due
from service.store.engine import Database
from service.store.forming import GROUP, Group, form
from service.store.health import FIRST_REST
from service.store.lanes import token_rates
from service.store.models import Batch, Lane
from service.store.probing import are_unhealthy, send
from service.store.spending import Asking, withhold

UNDER_WAY = text(
    "batches.parked_at IS NULL AND (batches.state IN ('uploaded', 'created')"
    " OR (batches.state = 'queued' AND batches.failures = 0))"
)
"""Let in, and not yet ended over there: the words of a partial index. What waits for an operator,
or cannot be uploaded, must not hold up all else."""

AT_ONCE = 2000
"""About how many parts one tick lets in."""

# The first few of each group (lane, priority, producer), however many wait: the groups are found
# by skipping from one to the next along the index, not by reading what is in them. Where these
# would wait for company, `small` counts what could fill a batch.
_GROUPS = text(f"""
WITH RECURSIVE groups AS (
  (SELECT account, endpoint, model, priority, producer FROM haulier.parts WHERE state = 'waiting'
   ORDER BY account, endpoint, model, priority, producer LIMIT 1)
  UNION ALL
  SELECT following.* FROM groups, LATERAL (
    SELECT p.account, p.endpoint, p.model, p.priority, p.producer FROM haulier.parts p
    WHERE state = 'waiting' AND (p.account, p.endpoint, p.model, p.priority, p.producer)
      > (groups.account, groups.endpoint, groups.model, groups.priority, groups.producer)
    ORDER BY p.account, p.endpoint, p.model, p.priority, p.producer LIMIT 1) following)
SELECT groups.*, first.*, sent.*, small.*, now() AS now
FROM groups, LATERAL (
  SELECT NOT EXISTS (
    SELECT FROM haulier.batches b WHERE b.account = groups.account
    AND b.endpoint = groups.endpoint AND b.model = groups.model AND b.priority = groups.priority
    AND b.producer = groups.producer AND b.created_at > now() - :wait) AS idle) sent, LATERAL (
  SELECT array_agg(f.id) AS ids, array_agg(f.requests) AS requests, array_agg(f.bytes) AS bytes,
    array_agg(f.ready_at) AS since, array_agg(f.patient_until) AS patient_until,
    array_agg(f.company) AS company,
    array_agg(CASE WHEN NOT f.renamed THEN f.job_id END) AS own_names
  FROM (SELECT p.id, p.requests, p.bytes, p.ready_at, p.patient_until, p.company, p.renamed,
          p.job_id
        FROM haulier.parts p
        WHERE state = 'waiting' AND p.account = groups.account AND p.endpoint = groups.endpoint
        AND p.model = groups.model AND p.priority = groups.priority
        AND p.producer = groups.producer AND p.ready_at <= now()
        ORDER BY p.ready_at, p.shard LIMIT :limit) f) first, LATERAL (
  SELECT count(*) AS small_parts, coalesce(sum(s.requests), 0)::bigint AS small_requests,
    coalesce(sum(s.bytes), 0)::bigint AS small_bytes
  FROM (SELECT p.requests, p.bytes + {RENAMED} * p.requests AS bytes FROM haulier.parts p
        WHERE cardinality(first.ids) >= :limit
        AND NOT sent.idle AND first.since[1] > now() - :wait AND state = 'waiting'
        AND p.account = groups.account AND p.endpoint = groups.endpoint
        AND p.model = groups.model AND p.priority = groups.priority
        AND p.producer = groups.producer AND p.ready_at <= now()
        AND p.requests <= {LARGE} AND p.company IS NULL AND p.renamed IS NOT FALSE
        ORDER BY p.ready_at, p.shard LIMIT {MOST_PARTS}) s) small
WHERE first.ids IS NOT NULL
AND NOT EXISTS (SELECT FROM haulier.accounts a
                WHERE a.name = groups.account
                AND (a.paused_until > now() OR a.paused_at IS NOT NULL))
AND NOT EXISTS (SELECT FROM haulier.producers o
                WHERE o.name = groups.producer AND o.short_until > now())
AND NOT EXISTS (SELECT FROM haulier.lanes l
                WHERE l.account = groups.account AND l.endpoint = groups.endpoint
                AND l.model = groups.model AND (l.held_until > now()
                  OR l.paused_at IS NOT NULL OR l.state <> 'healthy'))
""")  # noqa: S608  constant words

# What stands behind the first few of a group and may share a batch with them.
_REST = text(f"""
SELECT p.id, p.requests, p.bytes, p.ready_at FROM haulier.parts p
WHERE state = 'waiting' AND p.account = :account AND p.endpoint = :endpoint AND p.model = :model
AND p.priority = :priority AND p.producer = :producer AND p.ready_at <= now()
AND p.requests <= {LARGE} AND p.company IS NULL AND p.id <> ALL(:known)
AND CASE WHEN CAST(:own_names AS uuid) IS NULL THEN p.renamed IS NOT FALSE
    ELSE p.job_id = CAST(:own_names AS uuid) AND NOT p.renamed END
ORDER BY p.ready_at, p.shard LIMIT :most
""")  # noqa: S608  constant words


MEMORY = 20
"""For how many times as long as it took to count, the count is remembered."""
LONGEST_MEMORY = 10.0
"""Seconds."""


@dataclass
class Admission:
    """Admits parts, and remembers for a moment what is under way: to count it takes a while.

    What was remembered is mostly too much: batches end meanwhile, and what others have admitted
    shows in the lanes. Only what an operator releases counts a few seconds late.
    """

    _scene: Scene | None = None
    _counts: dict[LaneName, int] = field(default_factory=dict)
    _until: float = 0.0

    def admit(
        self,
        db: Database,
        *,
        limit: int,
        capacity: Capacity,
        limits: Limits,
        rest: timedelta = FIRST_REST,
        prices: PriceTable | None = None,
    ) -> list[Due]:
        """Make at most `limit` batches of what waits, and return them, stamped as dispatched.

        What probes a lane that is not healthy comes on top: such lanes and their batches are few.
        One scheduler at a time; another one finds nothing to do meanwhile.
        """
        if limit <= 0:
            return []
        return [
            *self._probe(db, capacity, limits, rest, prices or {}),
            *self._admit(db, limit, capacity, limits, prices or {}),
        ]

    def _probe(
        self,
        db: Database,
        capacity: Capacity,
        limits: Limits,
        rest: timedelta,
        prices: PriceTable,
    ) -> list[Due]:
        with db.begin() as session:
            if not are_unhealthy(session) or not take_turn(session, "admit"):
                return []
            return send(
                session, lambda: self._known(session), capacity, limits, rest=rest, prices=prices
            )

    def _admit(
        self, db: Database, limit: int, capacity: Capacity, limits: Limits, prices: PriceTable
    ) -> list[Due]:
        with db.begin() as session:
            if not take_turn(session, "admit"):
                return []
            groups = _groups(session, limit, limits)
            if not groups:
                return []
            scene = self._known(session)
            owners = {pack.id: (group, pack) for group in groups for pack in group.packs}
            waiting = [group.waiting(pack) for group, pack in owners.values()]
            chosen = [owners[found.id] for found in choose(waiting, scene, capacity, limit)]
            # Of the others, everything that waits was read.
            deep = [(group, pack) for group, pack in chosen if len(group.row.ids) == limit]
            _fill(session, deep, scene, capacity)
            chosen = _affordable(session, chosen, prices)
            admitted = form(session, chosen)
        ids = {due.id for due in admitted}
        for group, pack in chosen:
            if pack.id in ids:
                scene.add(group.waiting(pack))
                self._counts[group.lane] = self._counts.get(group.lane, 0) + 1
        return admitted

    def _known(self, session: Session) -> Scene:
        """Return what is under way, counted anew if that is old or others have admitted."""
        counts = admitted_counts(session)
        if self._scene is None or counts != self._counts or time.monotonic() > self._until:
            began = time.monotonic()
            self._scene, self._counts = load(session), counts
            now = time.monotonic()
            self._until = now + min(LONGEST_MEMORY, (now - began) * MEMORY)
        return self._scene


def _groups(session: Session, limit: int, limits: Limits) -> list[Group]:
    """Return the groups of which something may go."""
    rows = session.execute(_GROUPS, {"limit": limit, "wait": limits.wait}).all()
    if not rows:
        return []
    rates = token_rates(session, {(row.account, row.endpoint, row.model) for row in rows})
    groups = []
    for row in rows:
        small = Small(row.small_parts, row.small_requests, row.small_bytes)
        packs = packed(_parts(row), limits, row.now, idle=row.idle, small=small)
        if packs:
            lane = (row.account, row.endpoint, row.model)
            groups.append(Group(row, packs, rates.get(lane, TOKENS_PER_BYTE)))
    return groups


def _parts(row: Any) -> list[WaitingPart]:
    return [
        WaitingPart(
            id=part_id,
            requests=requests,
            bytes=size,
            since=since,
            patient_until=patient_until,
            company=company,
            own_names=own_names,
        )
        for part_id, requests, size, since, patient_until, company, own_names in zip(
            row.ids,
            row.requests,
            row.bytes,
            row.since,
            row.patient_until,
            row.company,
            row.own_names,
            strict=True,
        )
    ]


def _fill(
    session: Session, chosen: Sequence[tuple[Group, Pack]], scene: Scene, capacity: Capacity
) -> None:
    """Add to the last pack of each group what waits behind it, as long as it fits."""
    budget = AT_ONCE - sum(len(pack.parts) for _, pack in chosen)
    loads = Counter[LaneName]()
    for group, pack in chosen:
        loads[group.lane] += group.tokens(pack)
    for group, pack in chosen:
        last = [other for other in group.packs if other.own_names == pack.own_names][-1]
        if pack is not last or pack.parts[0].is_alone or budget <= 0:
            continue
        room = capacity.tokens - scene.lanes[group.lane].tokens - loads[group.lane]
        row = group.row
        asked = {
            **{name: getattr(row, name) for name in GROUP},
            "known": list(row.ids),
            "own_names": pack.own_names,
            # Each has a request at least; one more shows that the pack is full.
            "most": min(budget, MOST_PARTS, pack.limits.requests - pack.requests + 1),
        }
        before = group.tokens(pack)
        for part in session.execute(_REST, asked).all():
            if group.tokens(pack) - before > room:
                break
            taken = WaitingPart(
                id=part.id,
                requests=part.requests,
                bytes=part.bytes,
                since=part.ready_at,
                own_names=pack.own_names,
            )
            if not pack.take(taken):
                break
            budget -= 1


def _affordable(
    session: Session, chosen: list[tuple[Group, Pack]], prices: PriceTable
) -> list[tuple[Group, Pack]]:
    """Return what may be spent for."""
    if not chosen:
        return []
    asking = [Asking(pack, group.lane, group.row.producer) for group, pack in chosen]
    stay = withhold(session, asking, prices, chosen[0][0].row.now)
    return [(group, pack) for group, pack in chosen if pack.id not in stay]


def admitted_counts(session: Session) -> dict[LaneName, int]:
    """Return how many batches of each lane were ever admitted, where any were."""
    lanes = select(Lane.account, Lane.endpoint, Lane.model, Lane.admitted).where(Lane.admitted > 0)
    return {(account, endpoint, model): n for account, endpoint, model, n in session.execute(lanes)}


def load(session: Session) -> Scene:
    """Load what is under way: lanes and producers."""
    rows = session.execute(
        select(
            Batch.account,
            Batch.endpoint,
            Batch.model,
            Batch.producer,
            func.count(),
            func.sum(Batch.tokens),
            func.sum(Batch.requests),
        )
        .where(UNDER_WAY)
        .group_by(Batch.account, Batch.endpoint, Batch.model, Batch.producer)
    )
    scene = Scene()
    for account, endpoint, model, producer, batches, tokens, requests in rows:
        lane = scene.lanes[account, endpoint, model]
        lane.batches += batches
        lane.tokens += int(tokens)
        scene.producers[producer] += int(requests)
    for name in session.scalars(select(Lane)):
        scene.lanes[name.account, name.endpoint, name.model].admitted = name.admitted
    return scene
