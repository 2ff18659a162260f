"""Wrong tokens, counted by the address that they come from."""

import time
from math import ceil

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from service.api.connections import site

COUNTERS = 4096
"""Addresses share them, so that no number of addresses takes more memory. Whoever shares one with a
guesser gets 429 for a wrong token where it would have got 401: valid ones are not counted."""


class Failures:
    """The wrong tokens of the last minute."""

    def __init__(self, per_minute: int) -> None:
        self._allowed = RateLimitItemPerMinute(per_minute)
        self.counters = MemoryStorage()
        self._limiter = FixedWindowRateLimiter(self.counters)

    def note(self, address: str) -> int | None:
        """Count one more. Returns the seconds to wait if there were too many."""
        counter = str(hash(site(address)) % COUNTERS)
        if self._limiter.hit(self._allowed, counter):
            return None
        ends_at = self._limiter.get_window_stats(self._allowed, counter).reset_time
        return max(ceil(ends_at - time.time()), 1)
