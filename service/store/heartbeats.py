"""Heartbeats of processes, and the worker slots that follow from them."""

from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from config import VERSION
from service.store.engine import Database
from service.store.models import Heartbeat

FORGOTTEN = timedelta(days=1)


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
) -> None:
    """Write a process's heartbeat."""
    values = {
        "kind": kind,
        "host": host,
        "pid": pid,
        "queues": queues,
        "slots": slots,
        "scratch_free": scratch_free,
    }
    with db.begin() as session:
        session.execute(
            insert(Heartbeat)
            .values(id=name, version=VERSION, **values)
            .on_conflict_do_update(
                index_elements=["id"], set_={**values, "seen_at": func.now(), "version": VERSION}
            )
        )
        session.execute(delete(Heartbeat).where(Heartbeat.seen_at < func.now() - FORGOTTEN))


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
                )
            ).one()
        )
