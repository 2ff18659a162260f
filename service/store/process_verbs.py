"""What operators do to processes."""

from sqlalchemy import func, select

from service.store.audit import Actor, path, record
from service.store.engine import Database
from service.store.models import Heartbeat


def drain(db: Database, process_id: str, *, by: Actor | None) -> Heartbeat | None:
    """Let a process finish what it has, and take nothing new. Returns None if there is no such.

    It learns that with its next heartbeat.
    """
    return _change(db, process_id, "drain", drains=True, by=by)


def resume(db: Database, process_id: str, *, by: Actor | None) -> Heartbeat | None:
    """Let a process take work again. Returns None if there is no such process."""
    return _change(db, process_id, "resume", drains=False, by=by)


def _change(
    db: Database, process_id: str, verb: str, *, drains: bool, by: Actor | None
) -> Heartbeat | None:
    with db.begin() as session:
        process = session.scalar(
            select(Heartbeat).where(Heartbeat.id == process_id).with_for_update()
        )
        if process is None:
            return None
        before = {"draining": process.draining_since is not None}
        if not drains:
            process.draining_since = process.drained_at = None
        elif process.draining_since is None:
            process.draining_since = func.now()
        record(
            session,
            by,
            verb,
            path("processes", process_id),
            before=before,
            after={"draining": drains},
        )
        session.flush()
        session.refresh(process)
        return process
