"""A histogram of the durations of ticks, to which all schedulers add."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.dialects.postgresql import insert

from service.store.engine import Database
from service.store.models import Tick

UP_TO = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, math.inf)
"""Seconds that a tick in each bucket takes at most."""


@dataclass
class Bucket:
    """Ticks of about the same length, and the seconds of all of them together."""

    count: int = 0
    seconds: float = 0.0


def add_ticks(db: Database, buckets: Mapping[float, Bucket]) -> None:
    """Add to the buckets, by the seconds that a tick in them takes at most."""
    if not buckets:
        return
    rows = [
        {"up_to": up_to, "count": bucket.count, "seconds": bucket.seconds}
        for up_to, bucket in sorted(buckets.items())  # in one order: no deadlock between two
    ]
    added = insert(Tick).values(rows)
    with db.begin() as session:
        session.execute(
            added.on_conflict_do_update(
                index_elements=["up_to"],
                set_={
                    "count": Tick.count + added.excluded["count"],
                    "seconds": Tick.seconds + added.excluded["seconds"],
                },
            )
        )
