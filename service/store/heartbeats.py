"""Heartbeats of processes, and the worker slots that follow from them."""

from datetime import datetime, timedelta

from sqlalchemy import and_, case, delete, func, or_, select
from sqlalchemy.dialects.postgresql import insert

from config import VERSION
from service.store.engine import Database
from service.store.models import Heartbeat

FORGOTTEN = timedelta(days=1)
DRAINED_FORGOTTEN = timedelta(minutes=1)
"""The same of a process that was to be drained: it has ended, as it was meant to."""


def beat(
    db: Database,
    *,
    name: str,
    kind: str,
    host: str,
    pid: int,
    queues: list[str],
    slots: int,
    scratch_free: int | None = None,
    draining_since: datetime | None = None,
    is_idle: bool = False,
) -> datetime | None:
    """Write a process's heartbeat. Returns since when an operator wants it to take nothing new.

    `draining_since` is what the last heartbeat returned: a row that was forgotten meanwhile comes
    back as it was. `is_idle` says that a process that takes nothing new has nothing left.
    """
    values = {
        "kind": kind,
        "host": host,
        "pid": pid,
        "queues": queues,
        "slots": slots,
        "scratch_free": scratch_free,
    }
    since = func.coalesce(Heartbeat.drained_at, func.now())
    drained_at = case((Heartbeat.draining_since.is_not(None), since)) if is_idle else None
    seen = {"seen_at": func.now(), "version": VERSION, "drained_at": drained_at}
    with db.begin() as session:
        asked = session.scalars(
            insert(Heartbeat)
            .values(id=name, version=VERSION, draining_since=draining_since, **values)
            .on_conflict_do_update(index_elements=["id"], set_={**values, **seen})
            .returning(Heartbeat.draining_since)
        ).one()
        session.execute(
            delete(Heartbeat).where(
                or_(
                    Heartbeat.seen_at < func.now() - FORGOTTEN,
                    and_(
                        Heartbeat.draining_since.is_not(None),
                        Heartbeat.seen_at < func.now() - DRAINED_FORGOTTEN,
                    ),
                )
            )
        )
    return asked


def gone(db: Database, name: str) -> None:
    """Remove the heartbeat of a process that has ended on purpose."""
    with db.begin() as session:
        session.execute(delete(Heartbeat).where(Heartbeat.id == name))


def heartbeats(db: Database) -> list[Heartbeat]:
    with db.begin() as session:
        return list(session.scalars(select(Heartbeat).order_by(Heartbeat.kind, Heartbeat.id)))


def slots(db: Database, queue: str, *, within: timedelta) -> int:
    """Return how many tasks of a queue the workers that were seen lately can run at once."""
    with db.begin() as session:
        return int(
            session.scalars(
                select(func.coalesce(func.sum(Heartbeat.slots), 0)).where(
                    Heartbeat.kind == "worker",
                    Heartbeat.queues.contains([queue]),
                    Heartbeat.seen_at > func.now() - within,
                    Heartbeat.draining_since.is_(None),
                )
            ).one()
        )
