"""Counts of what happened, which all processes add to, for `/metrics`."""

from sqlalchemy.dialects.postgresql import insert

from service.store.engine import Database
from service.store.models import Counter

SET_ASIDE = "messages_set_aside"
"""Messages on the queue that could not be read and have no job."""
UNREAD = "messages_nobody_reads"
"""Messages in lists that only look like the queue: how many there are now."""


def count(db: Database, name: str, more: int) -> None:
    """Add to a counter."""
    with db.begin() as session:
        session.execute(
            insert(Counter)
            .values(name=name, count=more)
            .on_conflict_do_update(index_elements=["name"], set_={"count": Counter.count + more})
        )


def put(db: Database, name: str, now: int) -> None:
    """Set a counter that tells how many of something there are."""
    with db.begin() as session:
        session.execute(
            insert(Counter)
            .values(name=name, count=now)
            .on_conflict_do_update(index_elements=["name"], set_={"count": now})
        )
