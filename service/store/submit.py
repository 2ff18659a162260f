"""Storing what producers submit. Committed means accepted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import to_builtins
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.crashpoints import CrashPoint, reached
from service.errors import BadInput, Conflict
from service.intake import Taken
from service.models import Event, Job, Producer
from service.spec import Spec, fingerprint
from service.states import JobState
from service.store.engine import Database


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job to be stored: taken in (`taken`), to be read (`spec.input`), or refused (`bad`)."""

    id: UUID
    producer: str
    spec: Spec
    taken: Taken | None = None
    bad: BadInput | None = None

    @property
    def fingerprint(self) -> str | None:
        if self.spec.idempotency_key is None:
            return None
        return fingerprint(self.spec, (self.taken.sha256 if self.taken else None) or "")


@dataclass(frozen=True)
class Submitted:
    """The job that stands for a submission; not `new` where it was there already."""

    id: UUID
    new: bool


def submit(db: Database, submissions: Sequence[Submission]) -> list[Submitted]:
    """Store submissions in one transaction and say which job stands for each.

    A submission whose id or idempotency key is there already finds that job. Raises Conflict if
    the key was used for other content.
    """
    reached(CrashPoint.ACCEPT_COPIED)
    with db.begin() as session:
        _add_producers(session, {submission.producer for submission in submissions})
        now = session.scalars(select(func.now())).one()
        rows = {s.id: _row(s, now) for s in sorted(submissions, key=lambda s: s.id)}
        new = set(
            session.scalars(
                insert(Job).on_conflict_do_nothing().returning(Job.id), list(rows.values())
            )
        )
        if new:
            session.execute(
                insert(Event),
                [{"job_id": i, "target": rows[i]["state"], "detail": {}} for i in rows if i in new],
            )
        return [
            Submitted(submission.id, new=True)
            if submission.id in new
            else _existing(session, submission)
            for submission in submissions
        ]


def _add_producers(session: Session, names: set[str]) -> None:
    session.execute(
        insert(Producer).on_conflict_do_nothing(), [{"name": name} for name in sorted(names)]
    )


def _row(submission: Submission, now: datetime) -> dict[str, Any]:
    spec, taken, bad = submission.spec, submission.taken, submission.bad
    return {
        "id": submission.id,
        "producer": submission.producer,
        "state": JobState.ACCEPTED if bad is None else JobState.REJECTED,
        "endpoint": spec.endpoint,
        "account": spec.account,
        "priority": spec.priority,
        "max_attempts": spec.max_attempts,
        "labels": spec.metadata,
        "notify": spec.notify,
        # A refused job must not hold the key that its mended successor will come with.
        "idempotency_key": spec.idempotency_key if bad is None else None,
        "fingerprint": submission.fingerprint if bad is None else None,
        "input": spec.input,
        "plan": None if taken is None else [to_builtins(shard) for shard in taken.shards],
        "total": 0 if taken is None else taken.total,
        "pending": 0 if taken is None else taken.total,
        "error": None if bad is None else str(bad)[:4000].replace("\x00", "\ufffd"),
        "problems": None if bad is None else [_problem(problem) for problem in bad.problems],
        "finished_at": None if bad is None else now,
    }


def _problem(problem: Any) -> dict[str, Any]:
    return {"line": problem.line, "message": problem.message.replace("\x00", "\ufffd")}


def _existing(session: Session, submission: Submission) -> Submitted:
    if session.scalar(select(Job.id).where(Job.id == submission.id)) is not None:
        return Submitted(submission.id, new=False)
    job_id, known = session.execute(
        select(Job.id, Job.fingerprint).where(
            Job.producer == submission.producer,
            Job.idempotency_key == submission.spec.idempotency_key,
        )
    ).one()
    if known != submission.fingerprint:
        raise Conflict(
            f"idempotency key {submission.spec.idempotency_key!r} was used for job {job_id}"
            " with other content"
        )
    return Submitted(job_id, new=False)
