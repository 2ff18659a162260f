"""Parts: making them, ending those that wait, and reading those of a batch."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import ARRAY, Uuid, any_, bindparam, cast, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.canary import HELD_UNTIL, Held, most_failures
from service.rules.errors import StaleLease
from service.rules.spec import Spec
from service.rules.states import BatchState, PartState
from service.rules.work import BatchClaim, Ending, Manifest, PartClaim, Shard
from service.store.engine import Database
from service.store.models import Batch, Event, Job, Part, table_of


def stored(manifest: Manifest) -> dict[str, Any]:
    """The two columns of a manifest: it stands in the row, or the row names its blob."""
    inline = isinstance(manifest, bytes)
    return {
        "manifest": manifest if inline else None,
        "manifest_blob": None if inline else manifest,
    }


def manifest_of(part: Part) -> Manifest:
    return part.manifest if part.manifest is not None else part.manifest_blob or ""


def canary_of(spec: Spec, shards: Collection[Shard]) -> dict[str, Any]:
    """Return what a job's row says of its canary, and of what is held meanwhile."""
    if spec.canary is None:
        return {"canary": None, "canary_failures": None, "held": None}
    return {
        "canary": spec.canary,
        "canary_failures": most_failures(spec.canary, spec.canary_failures),
        "held": Held.CANARY if any(shard.held for shard in shards) else None,
    }


def new_parts(
    job: Mapping[str, Any],
    shards: Iterable[Shard],
    now: datetime,
    *,
    ready_at: datetime | None = None,
) -> list[dict[str, Any]]:
    """The rows of a job's first parts, all waiting. `job` has the columns of its row.

    They may travel from `ready_at` on, or at once; those that are held, once they are released.
    """
    begins = now if ready_at is None else ready_at
    return [
        {
            "id": uuid4(),
            "job_id": job["id"],
            "state": PartState.WAITING,
            "shard": number,
            "account": job["account"],
            "endpoint": job["endpoint"],
            "producer": job["producer"],
            "priority": job["priority"],
            "model": shard.model,
            "input_blob": shard.input_blob,
            **stored(shard.manifest),
            "bytes": shard.bytes,
            "requests": shard.requests,
            "ready_at": HELD_UNTIL if shard.held else begins,
        }
        for number, shard in enumerate(shards)
    ]


def rest_of(part: Part, manifest: Manifest) -> Part:
    """A waiting part with the requests that a probe leaves behind. It keeps its place."""
    same = (
        *("job_id", "parent_id", "shard", "attempt", "renamed", "account", "endpoint", "producer"),
        *("priority", "model", "input_blob", "poison", "failed_first", "patient_until"),
        *("ready_at", "outage_since"),
    )
    return Part(
        id=uuid4(),
        state=PartState.WAITING,
        **{name: getattr(part, name) for name in same},
        **stored(manifest),
    )


def successor(parent: Part, manifest: Manifest, requests: int, size: int) -> Part:
    """A waiting part of the same shard, one attempt later."""
    return Part(
        id=uuid4(),
        job_id=parent.job_id,
        parent_id=parent.id,
        state=PartState.WAITING,
        shard=parent.shard,
        attempt=parent.attempt + 1,
        renamed=parent.renamed,
        account=parent.account,
        endpoint=parent.endpoint,
        producer=parent.producer,
        priority=parent.priority,
        model=parent.model,
        input_blob=parent.input_blob,
        **stored(manifest),
        bytes=size,
        requests=requests,
    )


def end_waiting(session: Session, job_ids: Collection[UUID]) -> None:
    """Let the waiting parts of cancelled jobs end: each in a batch of its own, which is not sent.

    The caller has locked the jobs.
    """
    session.flush()
    waiting = (
        select(Part, Job.cancel_requested_at)
        .join(Job, Job.id == Part.job_id)
        .where(Part.job_id == any_(cast(list(job_ids), ARRAY(Uuid))))
        .where(Part.state == PartState.WAITING)
        .order_by(Part.id)
        .with_for_update(of=Part)
    )
    for part, cancelled_at in session.execute(waiting).all():
        batch = batch_for([part])
        batch.ending, batch.cancelled_at = Ending.CANCELLED, cancelled_at
        session.add(batch)
        part.state, part.batch_id = PartState.TRAVELLING, batch.id


def batch_for(parts: Sequence[Part]) -> Batch:
    """A queued batch for parts of one group."""
    first = parts[0]
    return Batch(
        id=uuid4(),
        state=BatchState.QUEUED,
        account=first.account,
        endpoint=first.endpoint,
        producer=first.producer,
        priority=first.priority,
        model=first.model,
        parts=len(parts),
        renamed=first.renamed or False,
        requests=sum(part.requests for part in parts),
        bytes=sum(part.bytes for part in parts),
    )


def take_out(session: Session, parts: Sequence[Part]) -> None:
    """Let parts leave their batch, which goes on without them; they wait again.

    The caller has locked the parts and the batch.
    """
    for part in parts:
        session.execute(
            update(Batch)
            .where(Batch.id == part.batch_id)
            .values(
                parts=Batch.parts - 1,
                requests=Batch.requests - part.requests,
                bytes=Batch.bytes - part.bytes,
            )
        )
        part.state, part.batch_id = PartState.WAITING, None


def parts_of(db: Database, claim: BatchClaim) -> tuple[PartClaim, ...]:
    """Return the parts of a leased batch, each job's in input order. Raises StaleLease."""
    with db.begin() as session:
        if session.scalar(_LEASE, {"row": claim.id}) != claim.lease:
            raise StaleLease(str(claim.id))
        rows = session.execute(_PARTS, {"row": claim.id}).all()
        checks = _checks(session, claim) if any(row.checked for row in rows) else {}
        return tuple(
            PartClaim(
                id=row.id,
                job_id=row.job_id,
                state=row.state,
                attempt=row.attempt,
                requests=row.requests,
                bytes=row.bytes,
                input_blob=row.input_blob,
                manifest=row.manifest if row.manifest is not None else row.manifest_blob,
                max_attempts=row.max_attempts,
                cancelled=row.cancelled,
                outage_since=row.outage_since,
                check=checks.get(row.job_id),
            )
            for row in rows
        )


def _checks(session: Session, claim: BatchClaim) -> dict[UUID, str]:
    """Return the checks of a batch's jobs. Many jobs may have the same, which is read once."""
    return {
        job_id: data
        for check, job_ids in session.execute(_CHECKS, {"row": claim.id})
        for data in (msgspec.json.encode(check).decode(),)
        for job_id in job_ids
    }


_LEASE = select(Batch.lease).where(Batch.id == bindparam("row"))
_PARTS = (
    select(
        Part.id,
        Part.job_id,
        Part.state,
        Part.attempt,
        Part.requests,
        Part.bytes,
        Part.input_blob,
        func.coalesce(Part.manifest_blob, "").label("manifest_blob"),
        Part.manifest,
        Part.outage_since,
        Job.max_attempts,
        Job.cancel_requested_at.is_not(None).label("cancelled"),
        Job.answer_check.is_not(None).label("checked"),
    )
    .join(Job, Job.id == Part.job_id)
    .where(Part.batch_id == bindparam("row"))
    .order_by(Part.ready_at, Part.shard, Part.id)
)
_CHECKS = (
    select(Job.answer_check, func.array_agg(Job.id.distinct()))
    .join(Part, Part.job_id == Job.id)
    .where(Part.batch_id == bindparam("row"), Job.answer_check.is_not(None))
    .group_by(Job.answer_check)
)


def insert_parts(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        session.execute(_ADD_PARTS, rows)


_ADD_PARTS = insert(table_of(Part))


def log_batches(session: Session, batches: Iterable[tuple[UUID, dict[str, Any]]]) -> None:
    """Begin the logs of new batches."""
    rows = [
        {"batch_id": batch_id, "target": BatchState.QUEUED, "detail": detail}
        for batch_id, detail in batches
    ]
    if rows:
        session.execute(insert(Event), rows)
