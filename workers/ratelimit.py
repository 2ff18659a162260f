"""Limits the calls to Together's control API, per account and over all workers."""

import math
import time
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction

import structlog
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter
from redis.exceptions import RedisError

from service.rules.errors import Transient
from workers.broker import connect

log = structlog.get_logger()

TIMEOUT = 1.0
"""The most seconds that a call waits for a Redis that does not answer."""


class RateLimit:
    """A moving window in Redis, which lets a limited number of calls through."""

    def __init__(self, redis_url: str, per_second: float) -> None:
        redis = connect(redis_url, connect_timeout=TIMEOUT, timeout=TIMEOUT)
        self._storage = RedisStorage(
            "redis://",
            connection_pool=redis.connection_pool,
            key_prefix="haulier.rate",
        )
        self._limiter = MovingWindowRateLimiter(self._storage)
        self._window = window(per_second)

    def close(self) -> None:
        self._storage.storage.close()

    def gate(self, account: str, patience: timedelta) -> Callable[[], None]:
        """Return a function that waits until a call may be made.

        It raises Transient when all its waits together would take longer than `patience`.
        """
        left = patience.total_seconds()

        def wait() -> None:
            nonlocal left
            started = time.monotonic()
            while (pause := self._pause(account)) > 0:
                waited = time.monotonic() - started
                if waited + pause > left:
                    left -= waited
                    raise Transient(_TOO_LONG.format(account), sent=False)
                time.sleep(pause)
            left -= time.monotonic() - started

        return wait

    def _pause(self, account: str) -> float:
        """Take a place in the window and return 0, or return the seconds until one may be free."""
        try:
            if self._limiter.hit(self._window, account):
                return 0
            free_at = self._limiter.get_window_stats(self._window, account).reset_time
        except RedisError as error:
            # Work goes on without Redis. Together's own limit (429) then slows it down.
            log.warning("rate_not_limited", reason=str(error))
            return 0
        return min(max(free_at - time.time(), 0.005), self._window.get_expiry())


_TOO_LONG = (
    "calls for account {!r} would have to wait too long"
    " under the limit HAULIER_CONTROL_REQUESTS_PER_SECOND"
)


def window(per_second: float) -> RateLimitItem:
    """Return the rate as calls per whole seconds, rounded down to tenths of a call per second."""
    rate = Fraction(math.floor(round(per_second * 10, 6)), 10)
    if rate == 0:
        return RateLimitItemPerSecond(1, math.ceil(1 / per_second))
    return RateLimitItemPerSecond(rate.numerator, rate.denominator)
