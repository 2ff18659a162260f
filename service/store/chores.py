"""What is to be done now and then, by one of several processes."""

from datetime import timedelta

from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql import insert

from service.models import Chore
from service.store.engine import Database


def begin(db: Database, name: str, *, every: timedelta) -> bool:
    """Whether it is time for a chore; if so, the caller is the one to do it.

    For the first time when a database has been in use for that long: one that was set up by mistake
    beside the blobs of another is not to sweep them at once.
    """
    with db.begin() as session:
        session.execute(insert(Chore).values(name=name).on_conflict_do_nothing())
        took = (
            update(Chore)
            .where(Chore.name == name, Chore.begun_at < func.now() - every)
            .values(begun_at=func.now())
            .returning(Chore.name)
        )
        return session.scalar(took) is not None
