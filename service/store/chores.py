"""What is to be done now and then, by one of several processes."""

from datetime import timedelta

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert

from service.models import Chore
from service.store.engine import Database


def begin(db: Database, name: str, *, every: timedelta) -> bool:
    """Whether it is time for a chore; if so, the caller is the one to do it."""
    took = (
        insert(Chore)
        .values(name=name)
        .on_conflict_do_update(
            index_elements=[Chore.name],
            set_={"begun_at": func.now()},
            where=Chore.begun_at < func.now() - every,
        )
        .returning(Chore.name)
    )
    with db.begin() as session:
        return session.scalar(took) is not None
