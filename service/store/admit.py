"""Admit waiting batches as far as there is capacity; `service.rules.admission` chooses which."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Uuid, cast, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.admission import TOKENS_PER_BYTE, Capacity, LaneName, Scene, Waiting, choose
from service.rules.states import Stage
from service.store.chores import take_turn
from service.store.due import Due
from service.store.engine import Database
from service.store.lanes import token_rates
from service.store.models import Batch, Lane

UNDER_WAY = text(
    "batches.admitted_at IS NOT NULL AND batches.parked_at IS NULL"
    " AND batches.state IN ('queued', 'uploaded', 'created')"
)
"""Let in, and not yet ended over there: the words of a partial index. What waits for an operator
must not hold up all else."""

_WAITING = "state = 'queued' AND admitted_at IS NULL AND parked_at IS NULL"

# The first few of each group (lane, priority, producer), however many wait: the groups are found
# by skipping from one to the next along the index, not by reading what is in them.
_CANDIDATES = text(f"""
WITH RECURSIVE groups AS (
  (SELECT account, endpoint, model, priority, producer FROM haulier.batches WHERE {_WAITING}
   ORDER BY account, endpoint, model, priority, producer LIMIT 1)
  UNION ALL
  SELECT following.* FROM groups, LATERAL (
    SELECT b.account, b.endpoint, b.model, b.priority, b.producer FROM haulier.batches b
    WHERE {_WAITING} AND (b.account, b.endpoint, b.model, b.priority, b.producer)
      > (groups.account, groups.endpoint, groups.model, groups.priority, groups.producer)
    ORDER BY b.account, b.endpoint, b.model, b.priority, b.producer LIMIT 1) following)
SELECT first.* FROM groups, LATERAL (
  SELECT b.id, b.account, b.endpoint, b.model, b.producer, b.priority, b.ready_at,
    b.requests, b.bytes
  FROM haulier.batches b
  WHERE {_WAITING} AND b.account = groups.account
    AND b.endpoint = groups.endpoint AND b.model = groups.model
    AND b.priority = groups.priority AND b.producer = groups.producer AND b.ready_at <= now()
    AND b.not_before <= now() AND (b.lease IS NULL OR b.leased_until < now())
  ORDER BY b.ready_at, b.shard LIMIT :limit) first
WHERE NOT EXISTS (SELECT FROM haulier.accounts a
                  WHERE a.name = groups.account AND a.paused_until > now())
AND NOT EXISTS (SELECT FROM haulier.lanes l
                WHERE l.account = groups.account AND l.endpoint = groups.endpoint
                AND l.model = groups.model AND l.held_until > now())
""")  # noqa: S608  constant words


MEMORY = 20
"""For how many times as long as it took to count, the count is remembered."""
LONGEST_MEMORY = 10.0
"""Seconds."""


@dataclass
class Admission:
    """Admits batches, and remembers for a moment what is under way: to count it takes a while.

    What was remembered is mostly too much: batches end meanwhile, and what others have admitted
    shows in the lanes. Only what an operator releases counts a few seconds late.
    """

    _scene: Scene | None = None
    _counts: dict[LaneName, int] = field(default_factory=dict)
    _until: float = 0.0

    def admit(self, db: Database, *, limit: int, capacity: Capacity) -> list[Due]:
        """Admit at most `limit` batches, stamp them as dispatched, and return them.

        One scheduler at a time; another one finds nothing to do meanwhile.
        """
        if limit <= 0:
            return []
        with db.begin() as session:
            if not take_turn(session, "admit"):
                return []
            found = session.execute(_CANDIDATES, {"limit": limit}).all()
            if not found:
                return []
            scene = self._known(session)
            rates = token_rates(session, {(row.account, row.endpoint, row.model) for row in found})
            waiting = [_waiting(row, rates) for row in found]
            chosen = choose(waiting, scene, capacity, limit)
            admitted = _admit(session, chosen)
        ids = {due.id for due in admitted}
        for batch in chosen:
            if batch.id in ids:
                scene.add(batch)
                self._counts[batch.lane] = self._counts.get(batch.lane, 0) + 1
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


def _waiting(row: Any, rates: dict[LaneName, float]) -> Waiting:
    lane = (row.account, row.endpoint, row.model)
    return Waiting(
        id=row.id,
        lane=lane,
        producer=row.producer,
        priority=row.priority,
        since=row.ready_at,
        requests=row.requests,
        tokens=round(row.bytes * rates.get(lane, TOKENS_PER_BYTE)),
    )


def _admit(session: Session, chosen: Sequence[Waiting]) -> list[Due]:
    if not chosen:
        return []
    asked = (
        func.unnest(
            cast([batch.id for batch in chosen], ARRAY(Uuid)),
            cast([batch.tokens for batch in chosen], ARRAY(BigInteger)),
        )
        .table_valued("id", "tokens")
        .render_derived()
    )
    # In one order, and without waiting: a cancel may be writing many rows of a job as well.
    free = (
        select(Batch.id)
        .join(asked, Batch.id == asked.c.id)
        .where(Batch.admitted_at.is_(None))
        .order_by(Batch.id)
        .with_for_update(of=Batch, skip_locked=True)
        .cte("free")
    )
    let_in = session.execute(
        update(Batch)
        .where(Batch.id == asked.c.id, Batch.id.in_(select(free.c.id)))
        .values(admitted_at=func.now(), dispatched_at=func.now(), tokens=asked.c.tokens)
        .returning(Batch.id, Batch.account, Batch.endpoint, Batch.model)
    ).all()
    counts = Counter((account, endpoint, model) for _, account, endpoint, model in let_in)
    for (account, endpoint, model), count in sorted(counts.items()):
        session.execute(
            insert(Lane)
            .values(account=account, endpoint=endpoint, model=model, admitted=count)
            .on_conflict_do_update(
                index_elements=["account", "endpoint", "model"],
                set_={"admitted": Lane.admitted + count},
            )
        )
    accounts = {batch_id: account for batch_id, account, *_ in let_in}
    return [Due(Stage.UPLOAD, b.id, accounts[b.id]) for b in chosen if b.id in accounts]
