"""Storing what producers submit. Committed means accepted."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from service.payloads.intake import Taken
from service.rules.crashpoints import CrashPoint, reached
from service.rules.deadlines import past_problem
from service.rules.errors import (
    BadInput,
    Conflict,
    Contended,
    Disabled,
    IdTaken,
    OverQuota,
    Problem,
    error_text,
)
from service.rules.spec import Spec, fingerprint
from service.rules.states import JobState
from service.store.calls import NewCall, insert_calls
from service.store.deadlines import deadline_of
from service.store.engine import Database, is_contended
from service.store.models import Event, Job, table_of
from service.store.notices import announce_rejected
from service.store.parts import canary_of, insert_parts, new_parts
from service.store.quotas import Asked, over_quota


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job to be stored: taken in (`taken`), to be read (`spec.input`), or refused (`bad`).

    `call` is set where a client waits for the answer to its one request.
    """

    id: UUID
    producer: str
    spec: Spec
    taken: Taken | None = None
    bad: BadInput | None = None
    call: NewCall | None = None
    not_before: datetime | None = None
    """When the work may begin; None: at once."""

    @property
    def fingerprint(self) -> str | None:
        if self.spec.idempotency_key is None:
            return None
        return fingerprint(self.spec, (self.taken.sha256 if self.taken else None) or "")


@dataclass(frozen=True)
class Submitted:
    """The job that stands for a submission; not `new` where it was there already.

    `row` is a new job as it was just stored.
    """

    id: UUID
    new: bool
    row: Job | None = field(default=None, compare=False, repr=False)


NotStored = BadInput | Conflict | OverQuota | Contended
"""The reasons why a submission has no job."""

Answer = Submitted | NotStored

# A producer may hold a key in a transaction of its own (`haulier.enqueue`) for as long as it likes.
# Nobody else is to wait for it longer than this: all that is stored together, what one producer
# has in it, and each of its keys, of which so many are tried.
TOGETHER = timedelta(milliseconds=100)
OF_A_PRODUCER = timedelta(milliseconds=50)
ALONE = timedelta(milliseconds=20)
MOST_CONTENDED = 3


def submit_each(db: Database, submissions: Sequence[Submission]) -> list[Answer]:
    """Store submissions in one transaction, and say which job stands for each.

    No two of them may have one id. A submission whose id or idempotency key is there already finds
    that job. An error stands in its submission's place and touches no other: Conflict if the key
    was used for other content, IdTaken if the id is that of another producer's job, OverQuota if
    it is new and its producer's limit is reached, BadInput if it is new and its deadline is past,
    Disabled if its producer is, Contended if another transaction holds its key. Then the others
    are stored without it, producer by producer.
    """
    reached(CrashPoint.ACCEPT_COPIED)
    stored = _attempt(db, submissions, TOGETHER)
    if stored is not None:
        return stored
    found: dict[UUID, Answer] = {}
    for producer in sorted({s.producer for s in submissions}):
        found |= _of_a_producer(db, [s for s in submissions if s.producer == producer])
    return [found[s.id] for s in submissions]


def _of_a_producer(db: Database, submissions: list[Submission]) -> dict[UUID, Answer]:
    stored = _attempt(db, submissions, OF_A_PRODUCER)
    if stored is not None:
        return dict(zip((s.id for s in submissions), stored, strict=True))
    by_key: dict[str | None, list[Submission]] = {}
    for submission in submissions:
        by_key.setdefault(submission.spec.idempotency_key, []).append(submission)
    groups = list(by_key.values())
    # In another order each time, so that no key waits for others for ever.
    random.shuffle(groups)
    found: dict[UUID, Answer] = {}
    contended = 0
    for group in groups:
        answers = _attempt(db, group, ALONE) if contended < MOST_CONTENDED else None
        if answers is None:
            contended += 1
            answers = [Contended("another transaction holds the idempotency key") for _ in group]
        found |= zip((s.id for s in group), answers, strict=True)
    return found


def _attempt(
    db: Database, submissions: Sequence[Submission], patience: timedelta
) -> list[Answer] | None:
    """Store submissions in one transaction; None if others hold what it needs for too long."""
    try:
        with db.begin() as session:
            return _store(session, submissions, patience)
    except DBAPIError as error:
        if not is_contended(error):
            raise
        return None


def submit_within(session: Session, submission: Submission) -> Submitted:
    """Like `submit_each` of one, in the caller's transaction. Raises what stands in its place."""
    (stored,) = _store(session, [submission], TOGETHER)
    if isinstance(stored, Submitted):
        return stored
    raise stored


def _store(
    session: Session, submissions: Sequence[Submission], patience: timedelta
) -> list[Answer]:
    milliseconds = patience // timedelta(milliseconds=1)
    now: datetime = session.execute(_BEGIN, {"patience": f"{milliseconds}ms"}).one().now
    limited, disabled = _add_producers(session, {s.producer for s in submissions})
    # In one order for everybody: two pages with the same keys must not wait for each other.
    ordered = sorted(submissions, key=_order)
    refused: dict[UUID, Answer] = {}
    too_late: dict[UUID, Answer] = {}
    asked = []
    for s in ordered:
        if s.bad is not None:
            continue  # it becomes a rejected job, whoever sent it
        if s.producer in disabled:
            refused[s.id] = Disabled(s.producer)
        elif (late := past_problem(s.spec.deadline, now)) is not None:
            too_late[s.id] = BadInput([Problem(late)])
        elif s.producer in limited:
            asked.append(_asked(s))
    if asked:
        refused |= over_quota(session, asked)
    if too_late:
        # Who asks again for a job of before, whose deadline is over, finds it.
        before = _known(session, [s for s in ordered if s.id in too_late])
        refused |= {i: too_late[i] if isinstance(a, Contended) else a for i, a in before.items()}
    rows = {s.id: _row(s, now) for s in ordered if s.id not in refused}
    new = set(_insert(session, list(rows.values())))
    if new:
        session.execute(
            _ADD_EVENTS,
            [{"job_id": i, "target": rows[i]["state"], "detail": {}} for i in rows if i in new],
        )
        taken = {s.id: s.taken.shards for s in ordered if s.taken is not None and s.id in new}
        insert_parts(
            session,
            [
                part
                for i, cut in taken.items()
                for part in new_parts(rows[i], cut, now, ready_at=rows[i]["not_before"])
            ],
        )
        insert_calls(
            session, [(s.id, s.call) for s in ordered if s.call is not None and s.id in new]
        )
        announce_rejected(
            session,
            {s.id: s.spec.notify for s in submissions if s.bad is not None and s.id in new},
        )
    known = _known(session, [s for s in submissions if s.id in rows and s.id not in new])
    found = {**refused, **known}
    return [
        found.get(s.id) or Submitted(s.id, new=True, row=_as_stored(rows[s.id], now))
        for s in submissions
    ]


def _as_stored(row: dict[str, Any], now: datetime) -> Job:
    """Return what a query would find of a new job, without asking."""
    values = {_ATTRIBUTES.get(name, name): value for name, value in row.items()}
    return Job(**_ZERO, **values, created_at=now)


_ATTRIBUTES = {"metadata": "labels", "page_blob": "bundle_blob"}
_ZERO = dict.fromkeys(
    (
        "succeeded",
        "failed",
        "attempts",
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "generation",
    ),
    0,
)


def _insert(session: Session, rows: list[dict[str, Any]]) -> Sequence[UUID]:
    """The ids of those that were not there."""
    if not rows:
        return []
    return session.scalars(_ADD_JOBS, rows).all()


_ADD_JOBS = insert(table_of(Job)).on_conflict_do_nothing().returning(table_of(Job).c.id)
_ADD_EVENTS = insert(table_of(Event))


def _asked(submission: Submission) -> Asked:
    return Asked(
        id=submission.id,
        producer=submission.producer,
        key=submission.spec.idempotency_key,
        requests=0 if submission.taken is None else submission.taken.total,
    )


def _order(submission: Submission) -> tuple[str, str, UUID]:
    return submission.producer, submission.spec.idempotency_key or "", submission.id


_BEGIN = text("SELECT set_config('lock_timeout', :patience, true), now() AS now")

_ADD_PRODUCERS = text("""
WITH added AS (
  INSERT INTO haulier.producers (name) SELECT unnest(CAST(:names AS text[]))
  ON CONFLICT DO NOTHING)
SELECT name, disabled_at IS NOT NULL AS disabled FROM haulier.producers
WHERE name = ANY(CAST(:names AS text[]))
AND (open_requests IS NOT NULL OR requests_per_day IS NOT NULL OR disabled_at IS NOT NULL)
""")


def _add_producers(session: Session, names: set[str]) -> tuple[set[str], set[str]]:
    """Add producers that are new. Return those of the others with limits, and the disabled ones."""
    found = session.execute(_ADD_PRODUCERS, {"names": sorted(names)}).all()
    disabled = {row.name for row in found if row.disabled}
    return {row.name for row in found} - disabled, disabled


def _row(submission: Submission, now: datetime) -> dict[str, Any]:
    spec, taken, bad = submission.spec, submission.taken, submission.bad
    return {
        "id": submission.id,
        "producer": submission.producer,
        "state": _state(submission),
        "endpoint": spec.endpoint,
        "account": spec.account,
        "priority": spec.priority,
        "max_attempts": spec.max_attempts,
        "metadata": spec.metadata,
        "notify": spec.notify,
        "is_call": submission.call is not None,
        "answer_check": spec.check,
        "max_cost": spec.max_cost,
        **deadline_of(spec if bad is None else Spec(endpoint=""), now),
        **canary_of(spec, () if taken is None else taken.shards),
        # A refused job must not hold the key that its mended successor will come with.
        "idempotency_key": spec.idempotency_key if bad is None else None,
        "fingerprint": submission.fingerprint if bad is None else None,
        "input": spec.input,
        "page_blob": None if taken is None else taken.bundle_blob,
        "total": 0 if taken is None else taken.total,
        "pending": 0 if taken is None else taken.total,
        "open_parts": 0 if taken is None else len(taken.shards),
        "started_at": None if taken is None else now,
        "error": None if bad is None else error_text(str(bad)),
        "problems": None if bad is None else [_problem(problem) for problem in bad.problems],
        "finished_at": None if bad is None else now,
        "not_before": submission.not_before or now,
    }


def _state(submission: Submission) -> JobState:
    """A job whose requests are known has its parts at once."""
    if submission.bad is not None:
        return JobState.REJECTED
    return JobState.ACCEPTED if submission.taken is None else JobState.RUNNING


def _problem(problem: Any) -> dict[str, Any]:
    return {"line": problem.line, "message": problem.message.replace("\x00", "\ufffd")}


def _known(session: Session, submissions: Sequence[Submission]) -> dict[UUID, Answer]:
    """Return what stands in place of submissions that made no row, by their ids."""
    if not submissions:
        return {}
    rows = select(Job.id, Job.producer).where(Job.id.in_([s.id for s in submissions]))
    owners = {job_id: producer for job_id, producer in session.execute(rows)}  # noqa: C416  typed
    keys = {_key(s): s for s in submissions if s.id not in owners}
    holders = session.execute(
        select(Job.id, Job.fingerprint, Job.producer, Job.idempotency_key).where(
            tuple_(Job.producer, Job.idempotency_key).in_(keys)
        )
    )
    by_key = {(producer, key): (job_id, known) for job_id, known, producer, key in holders}
    gone = Contended("the job with its key was forgotten just now")
    return {
        s.id: _owned(s, owners[s.id])
        if s.id in owners
        else _holder(s, *by_key[_key(s)])
        if _key(s) in by_key
        else gone
        for s in submissions
    }


def _owned(submission: Submission, owner: str) -> Answer:
    if owner == submission.producer:
        return Submitted(submission.id, new=False)
    return IdTaken(f"job {submission.id} is another producer's")


def _key(submission: Submission) -> tuple[str, str | None]:
    return submission.producer, submission.spec.idempotency_key


def _holder(submission: Submission, job_id: UUID, known: str | None) -> Answer:
    if known == submission.fingerprint:
        return Submitted(job_id, new=False)
    return Conflict(
        f"idempotency key {submission.spec.idempotency_key!r} was used for job {job_id}"
        " with other content"
    )
