"""What all processes measured of their work. They add to the same rows; `/metrics` reads them."""

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from service.rules import measures
from service.rules.measures import Key, Tally
from service.store.engine import Database
from service.store.models import Measured

Sums = Mapping[Key, Tally]


def store(db: Database) -> None:
    """Add what this process has measured since the last call. If that fails, it is kept."""
    taken = measures.take()
    if not taken:
        return
    rows = [
        {
            "name": key.name,
            "labels": ",".join(key.labels),
            "up_to": key.up_to,
            "count": tally.count,
            "seconds": tally.seconds,
        }
        for key, tally in sorted(taken.items())  # in one order: no deadlock between two
    ]
    added = insert(Measured).values(rows)
    try:
        with db.begin() as session:
            session.execute(
                added.on_conflict_do_update(
                    index_elements=["name", "labels", "up_to"],
                    set_={
                        "count": Measured.count + added.excluded["count"],
                        "seconds": Measured.seconds + added.excluded["seconds"],
                    },
                )
            )
    except Exception:
        measures.give_back(taken)
        raise


def sums(db: Database) -> dict[Key, Tally]:
    """Return what all processes have ever measured."""
    with db.begin() as session:
        return {
            Key(row.name, tuple(row.labels.split(",")) if row.labels else (), row.up_to): Tally(
                row.count, row.seconds
            )
            for row in session.scalars(select(Measured))
        }
