"""Retry dead letters as new parts of their job."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Text, any_, cast, delete, func, select

from service.rules.errors import Conflict
from service.rules.states import JobState, check_move
from service.rules.work import Manifest
from service.store.audit import Actor, path, record
from service.store.deadlines import reopen_deadline
from service.store.engine import Database
from service.store.models import DeadLetter, Event, Job, Part
from service.store.parts import manifest_of, successor


@dataclass(frozen=True, kw_only=True)
class DeadLetters:
    """The dead letters of one part."""

    part_id: UUID
    manifest: Manifest
    ordinals: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Revival:
    """Dead letters of one part with a new manifest and a fresh set of attempts."""

    part_id: UUID
    manifest: Manifest
    ordinals: frozenset[int]
    bytes: int


def dead_letters_by_part(
    db: Database, job_id: UUID, custom_ids: Sequence[str] | None
) -> tuple[list[DeadLetters], set[str]]:
    """A job's dead letters by part (None: all of them), and the custom_ids among them."""
    query = (
        select(
            Part,
            func.array_agg(DeadLetter.ordinal),
            func.array_agg(DeadLetter.custom_id),
        )
        .join(Part, Part.id == DeadLetter.part_id)
        .where(DeadLetter.job_id == job_id)
        .group_by(Part.id)
        .order_by(Part.shard, Part.id)
    )
    if custom_ids is not None:
        names = cast(list(custom_ids), ARRAY(Text))
        query = query.where(DeadLetter.custom_id == any_(names))
    with db.begin() as session:
        rows = session.execute(query).all()
    found = [
        DeadLetters(part_id=part.id, manifest=manifest_of(part), ordinals=frozenset(ordinals))
        for part, ordinals, _ in rows
    ]
    return found, {custom_id for *_, names in rows for custom_id in names}


def revive(
    db: Database, job_id: UUID, revivals: Sequence[Revival], *, operator: Actor | None = None
) -> None:
    """Take a finished job back to running, with a new part for each revival.

    The results stay readable until new ones take their place. What an operator does goes into the
    audit log. Raises Conflict if the job is not finished, or if its dead letters have changed.
    """
    with db.begin() as session:
        job = session.scalars(
            select(Job).where(Job.id == job_id).with_for_update(key_share=True)
        ).one_or_none()
        if job is None:
            raise Conflict("the job was forgotten just now")
        if job.state not in {JobState.COMPLETED, JobState.CANCELLED}:
            raise Conflict(f"the job is {job.state}; only a finished one can be retried")
        requests = 0
        for revival in revivals:
            parent = session.get_one(Part, revival.part_id)
            removed = session.scalars(
                delete(DeadLetter)
                .where(
                    DeadLetter.job_id == job_id,
                    DeadLetter.part_id == revival.part_id,
                    DeadLetter.ordinal == any_(cast(sorted(revival.ordinals), ARRAY(BigInteger))),
                )
                .returning(DeadLetter.ordinal)
            ).all()
            if len(removed) != len(revival.ordinals):
                raise Conflict("the job's dead letters have changed; ask again")
            part = successor(parent, revival.manifest, len(revival.ordinals), revival.bytes)
            part.priority = job.priority
            session.add(part)
            job.attempts = max(job.attempts, parent.attempt + 1)
            requests += len(removed)
        check_move(job.state, JobState.RUNNING)
        if operator is not None:
            before, after = {"state": job.state}, {"state": JobState.RUNNING, "retried": requests}
            record(session, operator, "retry", path("jobs", job_id), before=before, after=after)
        session.add(
            Event(
                job_id=job_id,
                source=job.state,
                target=JobState.RUNNING,
                detail={"retried": requests, "parts": len(revivals)},
            )
        )
        job.state = JobState.RUNNING
        job.failed -= requests
        job.pending += requests
        job.open_parts += len(revivals)
        job.finished_at = job.cancel_requested_at = None
        reopen_deadline(job)
