"""kombu's transports of Redis, whose reader survives what is no message.

Anybody who can write to the workers' queues could end a worker with one line that is not JSON.
Messages there are only nudges, so nothing is lost with one that cannot be read.
"""

from queue import Empty
from typing import Any

import structlog
from kombu.transport import TRANSPORT_ALIASES, redis

log = structlog.get_logger()

NO_MESSAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What kombu raises where it finds something else than a message."""


class _Survives:
    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except NO_MESSAGE as error:
            log.error("message_dropped", reason=repr(error)[:200])
            raise Empty from None


# kombu has no types.


class Channel(_Survives, redis.Channel):  # type: ignore[misc]
    pass


class SentinelChannel(_Survives, redis.SentinelChannel):  # type: ignore[misc]
    pass


class Transport(redis.Transport):  # type: ignore[misc]
    Channel = Channel


class SentinelTransport(redis.SentinelTransport):  # type: ignore[misc]
    Channel = SentinelChannel


def use() -> None:
    """Let the Celery applications of this process use them."""
    TRANSPORT_ALIASES["redis"] = f"{__name__}:Transport"
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:SentinelTransport"
