"""What is to be done now and then, by one of several processes."""

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from service.store.engine import Database
from service.store.models import Chore

GAP = timedelta(hours=1)
"""After so long without anybody asking, a chore is as good as new."""


def begin(db: Database, name: str, *, every: timedelta) -> bool:
    """Whether it is time for a chore; if so, the caller is the one to do it.

    For the first time when the database has been in use for that long: one that was restored, or
    set up by mistake beside the blobs of another, is not to sweep them at once.
    """
    with db.begin() as session:
        session.execute(insert(Chore).values(name=name).on_conflict_do_nothing())
        chore, now = session.execute(
            select(Chore, func.now()).where(Chore.name == name).with_for_update()
        ).one()
        is_time = now - chore.begun_at > every
        unattended = now - chore.seen_at > GAP
        chore.seen_at = now
        if is_time or unattended:
            chore.begun_at = now
        return is_time and not unattended
