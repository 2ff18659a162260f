"""The outbox of notices: written in the very transaction in which a job ends or passes a step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import case, func, insert, select, text, update
from sqlalchemy.orm import Session

from service.rules.errors import error_text
from service.rules.forecast import Forecast, NoForecast
from service.rules.notices import ENDS, Notice, NoticeEvent, read_notices
from service.rules.signatures import new_secret
from service.rules.work import Segment as SegmentPlace
from service.store.audit import Actor, path, record
from service.store.engine import Database
from service.store.forecasts import shown
from service.store.jobs import segments_of
from service.store.models import Delivery, Job, Producer

AT_ONCE = 4
"""Notices that are on their way to one endpoint at the same time."""


def announce(session: Session, job: Job) -> None:
    """Tell of a job's end, if it has just come to one."""
    event = ENDS.get(job.state)
    if event is not None:
        announce_event(session, job, event)


def announce_event(session: Session, job: Job, event: NoticeEvent) -> None:
    """Tell of what a job has come to that is no end: it is held, or late for its deadline."""
    if job.notify:
        wanted = [notice for notice in read_notices(job.notify) if notice.wants(event)]
        _add(session, [_row(job.id, event, notice) for notice in wanted])


def announce_progress(session: Session, job: Job, done_before: int) -> None:
    """Tell of the steps that a job has passed since `done_before` of its requests were done."""
    if not job.notify:
        return
    done = job.succeeded + job.failed
    wanted = [
        notice
        for notice in read_notices(job.notify)
        if notice.steps(done, job.total) > notice.steps(done_before, job.total)
    ]
    _add(session, [_row(job.id, NoticeEvent.PROGRESS, notice) for notice in wanted])


def announce_rejected(session: Session, refused: Mapping[UUID, list[Any]]) -> None:
    """Tell of submissions that were rejected at once: `notify` by the job's id."""
    event = NoticeEvent.REJECTED
    rows = [
        _row(job_id, event, notice)
        for job_id, entries in refused.items()
        for notice in read_notices(entries)
        if notice.wants(event)
    ]
    _add(session, rows)


def _row(job_id: UUID, event: NoticeEvent, notice: Notice) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "job_id": job_id,
        "event": event,
        "target": notice.target,
        "endpoint": notice.endpoint,
        "with_results": bool(notice.results),
    }


def _add(session: Session, rows: list[dict[str, Any]]) -> None:
    if rows:
        session.execute(insert(Delivery), rows)


@dataclass(frozen=True, kw_only=True)
class Sending:
    """A notice that is claimed, with all that is needed to send it."""

    id: UUID
    lease: UUID
    event: str
    target: Mapping[str, str]
    tries: int
    """This one included."""
    job: Job
    forecast: Forecast | NoForecast | None = None
    """By when a job that has not ended will be done."""
    segments: Sequence[SegmentPlace] | None
    """Where the job's results are; None unless the notice is to carry them."""
    secrets: Sequence[str]
    """The producer's signing secrets; none where it is no webhook."""
    private_webhooks: list[str] | None
    """Where its webhooks may go although private; None is everywhere."""


# One endpoint after another by the index, and of each no more than may be on their way at once:
# what waits for a dead one is never read. An endpoint is troubled if the notice that is to be tried
# last has failed: then one at a time, after those of the others. Producers take turns, each with
# what it has on its way already. Jobs are looked up one by one: no plan may read them all.
_CLAIM = text("""
WITH RECURSIVE endpoints AS (
  (SELECT endpoint FROM haulier.deliveries
   WHERE delivered_at IS NULL AND parked_at IS NULL ORDER BY endpoint LIMIT 1)
  UNION ALL
  SELECT (SELECT d.endpoint FROM haulier.deliveries d
          WHERE d.delivered_at IS NULL AND d.parked_at IS NULL AND d.endpoint > e.endpoint
          ORDER BY d.endpoint LIMIT 1)
  FROM endpoints e WHERE e.endpoint IS NOT NULL
), states AS MATERIALIZED (
  SELECT e.endpoint,
    (SELECT count(*) FROM haulier.deliveries d
     WHERE d.endpoint = e.endpoint AND d.lease IS NOT NULL AND d.leased_until > now()) AS leased,
    coalesce((SELECT d.tries > 0 FROM haulier.deliveries d
     WHERE d.endpoint = e.endpoint AND d.delivered_at IS NULL AND d.parked_at IS NULL
       AND d.lease IS NULL
     ORDER BY d.not_before DESC LIMIT 1), false) AS troubled
  FROM endpoints e WHERE e.endpoint IS NOT NULL
), producers AS (
  SELECT (SELECT j.producer FROM haulier.jobs j WHERE j.id = d.job_id) AS producer,
    count(*) AS leased
  FROM haulier.deliveries d WHERE d.lease IS NOT NULL AND d.leased_until > now() GROUP BY 1
), candidates AS (
  SELECT one.id, one.not_before, s.troubled,
    (SELECT j.producer FROM haulier.jobs j WHERE j.id = one.job_id) AS producer
  FROM states s, LATERAL (
    SELECT d.id, d.not_before, d.job_id FROM haulier.deliveries d
    WHERE d.endpoint = s.endpoint AND d.not_before <= now()
      AND d.delivered_at IS NULL AND d.parked_at IS NULL
    ORDER BY d.not_before
    LIMIT greatest(0, CASE WHEN s.troubled THEN 1 ELSE :at_once END - s.leased)
  ) one
), turns AS (
  SELECT c.id, c.not_before, c.troubled, coalesce(p.leased, 0) + row_number() OVER (
    PARTITION BY c.producer ORDER BY c.troubled, c.not_before) AS turn
  FROM candidates c LEFT JOIN producers p USING (producer)
), due AS (
  SELECT id FROM turns WHERE turn <= :share ORDER BY turn, troubled, not_before LIMIT :limit
), free AS (
  SELECT d.id FROM haulier.deliveries d JOIN due USING (id)
  WHERE d.not_before <= now() AND d.delivered_at IS NULL AND d.parked_at IS NULL
  FOR UPDATE OF d SKIP LOCKED
)
UPDATE haulier.deliveries d SET lease = gen_random_uuid(), leased_until = now() + :lease_for,
  not_before = now() + :lease_for, tries = d.tries + 1,
  first_tried_at = coalesce(d.first_tried_at, now())
FROM free WHERE d.id = free.id
RETURNING d.id
""")


def claim(db: Database, *, limit: int, share: int, lease_for: timedelta) -> list[Sending]:
    """Lease at most `limit` due notices to the caller.

    A producer has at most `share` on their way, whoever claimed them.
    """
    with db.begin() as session:
        values = {"limit": limit, "share": share, "at_once": AT_ONCE, "lease_for": lease_for}
        ids = session.scalars(_CLAIM, values).all()
        if not ids:
            return []
        found = session.execute(
            select(Delivery, Job).join(Job, Job.id == Delivery.job_id).where(Delivery.id.in_(ids))
        ).all()
        signers = {job.producer for delivery, job in found if "webhook" in delivery.target}
        producers = _producers(session, signers)
        claimed = [
            Sending(
                id=delivery.id,
                lease=_held(delivery),
                event=delivery.event,
                target=delivery.target,
                tries=delivery.tries,
                job=job,
                segments=segments_of(session, job.id, job.generation)
                if delivery.with_results
                else None,
                secrets=producers[job.producer].signing_secrets if job.producer in signers else (),
                private_webhooks=producers[job.producer].private_webhooks
                if job.producer in signers
                else [],
            )
            for delivery, job in found
        ]
    said = shown(db, [sending.job for sending in claimed])
    return [replace(sending, forecast=said.get(sending.job.id)) for sending in claimed]


def _held(delivery: Delivery) -> UUID:
    assert delivery.lease is not None
    return delivery.lease


def _producers(session: Session, names: set[str]) -> dict[str, Producer]:
    """The producers; one that has no signing secret gets its first."""
    found = {}
    for name in sorted(names):
        session.execute(
            update(Producer)
            .where(Producer.name == name, Producer.signing_secrets == text("'[]'"))
            .values(signing_secrets=[new_secret()])
        )
        found[name] = session.scalars(select(Producer).where(Producer.name == name)).one()
    return found


def delivered(db: Database, sending: Sending) -> bool:
    """Note that a notice has arrived. False if the lease was lost meanwhile."""
    return _close(db, sending, {"delivered_at": func.now(), "last_error": None})


def failed(
    db: Database,
    sending: Sending,
    reason: str,
    *,
    pause: timedelta | None,
    retry_for: timedelta,
) -> bool:
    """Note why a notice did not arrive: it is tried again after `pause`, or parked.

    Parked is what has been tried for `retry_for`, and what shall not be tried again (None).
    False if the lease was lost meanwhile.
    """
    over = Delivery.first_tried_at < func.now() - retry_for
    again = func.now() + (pause or timedelta(0))
    parked_at = func.now() if pause is None else case((over, func.now()), else_=None)
    return _close(
        db, sending, {"last_error": error_text(reason), "not_before": again, "parked_at": parked_at}
    )


def _close(db: Database, sending: Sending, values: Mapping[str, Any]) -> bool:
    with db.begin() as session:
        written = session.scalar(
            update(Delivery)
            .where(Delivery.id == sending.id, Delivery.lease == sending.lease)
            .values(lease=None, leased_until=None, **values)
            .returning(Delivery.id)
        )
        return written is not None


def deliveries(
    db: Database, job_id: UUID, *, after: tuple[datetime, UUID] | None, limit: int
) -> list[Delivery]:
    """A job's notices, oldest first."""
    query = select(Delivery).where(Delivery.job_id == job_id)
    if after is not None:
        created_at, delivery_id = after
        later = (Delivery.created_at == created_at) & (Delivery.id > delivery_id)
        query = query.where((Delivery.created_at > created_at) | later)
    with db.begin() as session:
        ordered = query.order_by(Delivery.created_at, Delivery.id).limit(limit)
        return list(session.scalars(ordered))


def redeliver(
    db: Database, job_id: UUID, delivery_id: UUID, *, operator: Actor | None = None
) -> Delivery | None:
    """Send a notice again, now; its id stays. One that is on its way already is left alone.

    None if the job has no such notice. What an operator does goes into the audit log.
    """
    mine = (Delivery.id == delivery_id, Delivery.job_id == job_id)
    idle = Delivery.lease.is_(None) | (Delivery.leased_until < func.now())
    fresh = {
        **dict.fromkeys(("lease", "leased_until", "first_tried_at")),
        **dict.fromkeys(("delivered_at", "parked_at")),
        "tries": 0,
        "not_before": func.now(),
    }
    with db.begin() as session:
        sent = update(Delivery).where(*mine, idle).values(fresh).returning(Delivery.id)
        if session.scalar(sent) is not None and operator is not None:
            record(session, operator, "redeliver", path("jobs", job_id, "deliveries", delivery_id))
        return session.scalars(select(Delivery).where(*mine)).one_or_none()
