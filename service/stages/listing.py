"""Looking at many batches of one account: in one list, or each for itself.

The list has everything that the account ever ran, unpaged, so its price grows with the years.
What is cheaper is decided by what the calls have cost this process so far.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass, field

import structlog

from service.rules.errors import Refused, Transient
from service.together.client import ProviderBatch, Together

log = structlog.get_logger()

FEW = 4
"""So many batches at least make a list worth its while, whatever it costs."""
LIST_AGE = 600.0
"""Seconds after which the price of a list is asked for anew, by using one."""
AFTER_FAILURE = 300.0
"""Seconds after a list that failed before another is tried."""
MOST_GETS = 30
"""How many batches of a page that a list did not show are asked for singly."""
GET = 0.3
"""What a get is taken to cost before one was made, in seconds."""
WEIGHT = 0.2


@dataclass
class Costs:
    """What the calls of one account took in this process, in seconds: moving averages.

    What a call waited for its turn counts as well: turns are scarce where their rate is limited.
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
    """Whether one list is to be asked for instead of `due` single batches."""
    if due < FEW:
        return False
    age = now - costs.listed_at
    if costs.list_failed:
        return age > AFTER_FAILURE
    if costs.listing is None or age > LIST_AGE:
        return True
    return due * (GET if costs.get is None else costs.get) > costs.listing


@dataclass
class View:
    """How the batches of a page stand. The list, if there is to be one, is made at first use.

    `careful` where workers were lost over some of them: then none is made, which may be why.
    """

    ids: Collection[str]
    costs: Costs
    careful: bool = False
    ready_at: float = field(default_factory=time.monotonic)
    """When it was begun, or the list was there: what is asked since then is asked singly."""
    _shown: dict[str, ProviderBatch] | None = None
    _gets: int = 0

    def __post_init__(self) -> None:
        due = 0 if self.careful else len(self.ids)
        self._to_list = prefers_list(due, self.costs, self.ready_at)

    def show(self, together: Together, batch_id: str) -> ProviderBatch | None:
        """A batch; None where a late list lacks it and too many were asked for singly already.

        Raises as the client does.
        """
        if self._to_list:
            self._to_list = False
            self._list(together)
        if self._shown is None:
            return self._get(together, batch_id)
        batch = self._shown.get(batch_id)
        # Nothing else tells a batch without any output from a list that does not name files.
        sure = batch is not None and not (batch.ended and batch.without_files)
        if sure:
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
        """Ask for the list; where that fails, each batch is asked for singly."""
        started = time.monotonic()
        try:
            found = together.batches(self.ids)
        except (Transient, Refused) as error:
            self.costs.list_broke(time.monotonic())
            log.warning("list_failed", reason=str(error), due=len(self.ids))
            return
        self.ready_at = time.monotonic()
        self.costs.listed(self.ready_at - started, self.ready_at)
        self._shown = {batch.id: batch for batch in found}
        log.debug("listed", due=len(self.ids), found=len(found))
