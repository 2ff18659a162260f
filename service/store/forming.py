"""Make batches of what waits: give packs of parts to new rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Uuid, any_, cast, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.admission import LaneName, Waiting
from service.rules.measures import ADMISSION_SECONDS
from service.rules.packing import Pack
from service.rules.states import BatchState, PartState, Stage
from service.store.due import Due
from service.store.models import Batch, Lane, Part
from service.store.parts import log_batches

GROUP = ("account", "endpoint", "model", "priority", "producer")


@dataclass(frozen=True)
class Group:
    """What may go of one group now, and what was read of it."""

    row: Any
    packs: Sequence[Pack]
    tokens_per_byte: float

    @property
    def lane(self) -> LaneName:
        return self.row.account, self.row.endpoint, self.row.model

    def waiting(self, pack: Pack) -> Waiting:
        return Waiting(
            id=pack.id,
            lane=self.lane,
            producer=self.row.producer,
            priority=self.row.priority,
            since=pack.parts[0].since,
            requests=pack.requests,
            tokens=self.tokens(pack),
        )

    def tokens(self, pack: Pack) -> int:
        return round(pack.bytes * self.tokens_per_byte)


def form(
    session: Session,
    chosen: Sequence[tuple[Group, Pack]],
    probes: Mapping[UUID, int] = MappingProxyType({}),
) -> list[Due]:
    """Give the packs' parts to new batches. Parts that a cancel holds just now stay behind.

    `probes` says of packs that go to find out how their lane is how many requests they may send.
    """
    if not chosen:
        return []
    with session.begin_nested() as savepoint:
        given = _give(session, [pack for _, pack in chosen])
        if given is None:
            savepoint.rollback()
            return []
    now: datetime = chosen[0][0].row.now
    rows: list[dict[str, Any]] = [
        {
            "id": pack.id,
            "state": BatchState.QUEUED,
            **{name: getattr(group.row, name) for name in GROUP},
            "tokens": group.tokens(pack),
            "probe": probes.get(pack.id),
            "dispatched_at": now,
            **given[pack.id],
        }
        for group, pack in chosen
        if pack.id in given
    ]
    if not rows:
        return []
    session.execute(insert(Batch), rows)
    for _, pack in chosen:
        if pack.id in given:
            ADMISSION_SECONDS.took((now - min(part.since for part in pack.parts)).total_seconds())
    log_batches(
        session,
        ((row["id"], {"parts": row["parts"], "requests": row["requests"]}) for row in rows),
    )
    counts = Counter((row["account"], row["endpoint"], row["model"]) for row in rows)
    for (account, endpoint, model), count in sorted(counts.items()):
        session.execute(
            insert(Lane)
            .values(account=account, endpoint=endpoint, model=model, admitted=count)
            .on_conflict_do_update(
                index_elements=["account", "endpoint", "model"],
                set_={"admitted": Lane.admitted + count},
            )
        )
    return [Due(Stage.UPLOAD, row["id"], row["account"]) for row in rows]


# Parts are locked in one order, one by one along the key however many wait, and without waiting: a
# cancel may be writing many parts of a job as well. Requests need other custom_ids where several
# jobs share a batch, since own ones are unique only within their job; what has one name at Together
# already keeps it.
_GIVE = text("""
WITH asked AS (
  SELECT a.* FROM unnest(CAST(CAST(:parts AS text) AS uuid[]),
                         CAST(CAST(:batches AS text) AS uuid[])) AS a (id, batch_id)
), free AS (
  SELECT p.id FROM haulier.parts p
  WHERE p.id = ANY(CAST(CAST(:parts AS text) AS uuid[])) AND p.state = 'waiting'
  ORDER BY p.id FOR UPDATE SKIP LOCKED
), given AS (
  UPDATE haulier.parts p SET state = 'travelling', batch_id = asked.batch_id
  FROM asked, free WHERE p.id = asked.id AND free.id = asked.id
  RETURNING p.batch_id, p.job_id, p.requests, p.bytes, p.poison, p.failed_first, p.renamed)
SELECT batch_id, count(*) AS parts, sum(requests)::bigint AS requests, sum(bytes)::bigint AS bytes,
  max(poison) AS poison, (array_agg(failed_first))[1] AS failed_first,
  coalesce(bool_or(renamed), count(DISTINCT job_id) > 1) AS renamed
FROM given GROUP BY batch_id
""")


def _give(session: Session, packs: Sequence[Pack]) -> dict[UUID, dict[str, Any]] | None:
    """Give parts to their batches, and return what each batch holds.

    Parts that are not free stay behind. None if that would tear a company apart.
    """
    pairs = [(part.id, pack.id) for pack in packs if pack.company is None for part in pack.parts]
    companies = [pack.company for pack in packs if pack.company is not None]
    if companies:
        # All of a company goes together, however much of it was read.
        members = select(Part.id, Part.company).where(
            Part.company == any_(cast(companies, ARRAY(Uuid))), Part.state == PartState.WAITING
        )
        pairs += [(part_id, company) for part_id, company in session.execute(members) if company]
    # Written here: the driver takes several times as long over an array of so many.
    asked = {
        "parts": f"{{{','.join([part_id.hex for part_id, _ in pairs])}}}",
        "batches": f"{{{','.join([batch_id.hex for _, batch_id in pairs])}}}",
    }
    rows = [dict(row) for row in session.execute(_GIVE, asked).mappings()]
    given = {row.pop("batch_id"): row for row in rows}
    together = Counter([batch_id for _, batch_id in pairs])
    torn = any(
        company not in given or given[company]["parts"] < together[company] for company in companies
    )
    return None if torn else given
