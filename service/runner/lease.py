"""The lease of a claim while a worker holds it: extend it, and retry writes until it ends."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from tenacity import Retrying, retry_if_exception, wait_random_exponential

from service.rules.errors import HandedBack
from service.rules.work import Claim
from service.store.claim import extend
from service.store.engine import Database, is_unavailable


@dataclass
class HeldLease:
    """The lease of one claim, of a certain `length`.

    `since` is the monotonic time just before the claim or its last extension was asked for, so a
    worker never believes that it holds a lease longer than the database does.
    """

    db: Database
    claim: Claim
    length: timedelta
    since: float
    stopping: Callable[[], bool]

    def keep(self) -> None:
        """Extend the lease once a quarter of it is gone.

        Raises HandedBack if the process is to stop, and StaleLease if another worker has the row.
        """
        if self.stopping():
            raise HandedBack
        now = time.monotonic()
        length = self.length.total_seconds()
        if now < self.since + length / 4:
            return
        try:
            extend(self.db, self.claim, self.length)
        except Exception as error:
            # Work may go on without the database for as long as the lease lasts.
            if not is_unavailable(error) or now > self.since + length:
                raise
            return
        self.since = now

    def remaining(self) -> timedelta:
        """Return the time until the lease ends."""
        return self.length - timedelta(seconds=time.monotonic() - self.since)


def while_lasts(remaining: Callable[[], timedelta]) -> Retrying:
    """Retry while Postgres is away and `remaining` says that some of the lease is left."""
    return Retrying(
        retry=retry_if_exception(is_unavailable),
        wait=wait_random_exponential(max=2),
        stop=lambda _: remaining() <= timedelta(0),
        reraise=True,
    )
