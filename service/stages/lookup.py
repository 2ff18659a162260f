"""Looking up many batches of one account: with one list, or with one call each.

The list holds every batch that the account ever ran and has no pages, so it gets slower over the
years. The measured times of both kinds of calls decide which of them is cheaper.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from service.rules.errors import Refused, Unreachable
from service.together.client import Together
from service.together.wire import ProviderBatch

log = structlog.get_logger()

FEW = 4
"""With fewer due batches than this, a list is never worth its price."""
LIST_AGE = 600.0
"""Seconds after which the measured time of a list is too old to use: the next page asks for one."""
AFTER_FAILURE = 300.0
"""Seconds to go without a list after one has failed."""
MOST_GETS = 30
"""How many batches a page may ask for one by one because the list did not show them."""
GET = 0.3
"""Seconds that a single call is assumed to take until one has been measured."""
WEIGHT = 0.2
"""Weight of the newest measurement in a moving average."""


@dataclass
class Costs:
    """How long the calls of one account take in this process, in seconds: moving averages.

    The time that a call waits for its turn counts, since turns are scarce under a rate limit.
    """

    get: float | None = None
    listing: float | None = None
    listed_at: float = 0.0
    """When a list was last asked for, on the clock of `time.monotonic`."""
    list_failed: bool = False

    def got(self, seconds: float) -> None:
        self.get = _moved(self.get, seconds)

    def listed(self, seconds: float, now: float) -> None:
        old = now - self.listed_at > LIST_AGE
        self.listing = seconds if old else _moved(self.listing, seconds)
        self.listed_at, self.list_failed = now, False

    def list_broke(self, now: float) -> None:
        self.listed_at, self.list_failed = now, True


def _moved(mean: float | None, seconds: float) -> float:
    return seconds if mean is None else mean + WEIGHT * (seconds - mean)


def prefers_list(due: int, costs: Costs, now: float) -> bool:
    """Whether one list is likely to be cheaper than `due` single calls."""
    if due < FEW:
        return False
    age = now - costs.listed_at
    if costs.list_failed:
        return age > AFTER_FAILURE
    if costs.listing is None or age > LIST_AGE:
        return True
    return due * (GET if costs.get is None else costs.get) > costs.listing


@dataclass
class Lookup:
    """Looks up the batches of one page of polls. Asks for a list, if at all, at the first one.

    `careful` rules the list out: workers were lost while they polled some of these batches, and
    the list may be the cause.
    """

    ids: Collection[str]
    costs: Costs
    careful: bool = False
    ready_at: float = field(default_factory=time.monotonic)
    """When the list arrived, or else when the lookup began. All later calls are single ones."""
    _listed: dict[str, ProviderBatch] | None = None
    _gets: int = 0

    def __post_init__(self) -> None:
        due = 0 if self.careful else len(self.ids)
        self._to_list = prefers_list(due, self.costs, self.ready_at)

    def is_old(self, age: timedelta) -> bool:
        """Whether what the list showed may no longer be true, `age` after it arrived."""
        return time.monotonic() > self.ready_at + age.total_seconds()

    def show(self, together: Together, batch_id: str) -> ProviderBatch | None:
        """Return a batch, or None if the list is stale and the budget of single calls is spent.

        Raises the errors of the client.
        """
        if self._to_list:
            self._to_list = False
            self._list(together)
        if self._listed is None:
            return self._get(together, batch_id)
        batch = self._listed.get(batch_id)
        if batch is not None:
            return batch
        if self._gets >= MOST_GETS:
            return None
        self._gets += 1
        return self._get(together, batch_id)

    def _get(self, together: Together, batch_id: str) -> ProviderBatch:
        started = time.monotonic()
        batch = together.batch(batch_id)
        self.costs.got(time.monotonic() - started)
        return batch

    def _list(self, together: Together) -> None:
        """Ask for the list. If that fails, `show` asks for each batch by itself."""
        started = time.monotonic()
        try:
            found = together.batches(self.ids)
        except (Unreachable, Refused) as error:
            self.costs.list_broke(time.monotonic())
            log.warning("list_failed", reason=str(error), due=len(self.ids))
            return
        self.ready_at = time.monotonic()
        self.costs.listed(self.ready_at - started, self.ready_at)
        self._listed = {batch.id: batch for batch in found}
        log.debug("listed", due=len(self.ids), found=len(found))
