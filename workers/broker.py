"""Options for connections to Redis, and a description of the server for `haulier doctor`.

`python -m workers.broker` writes one JSON document about the server to standard output.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from config.settings import Settings
from workers.process import run


def transport_options() -> dict[str, Any]:
    """Return kombu's transport options. Each process here uses them."""
    return {
        # Without a timeout, a publish to a frozen Redis blocks for ever.
        "socket_timeout": 5,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "visibility_timeout": 3600,
    }


def depths(redis: Redis, queues: Iterable[str]) -> dict[str, int]:
    """Return how many messages each queue holds. Raises RedisError."""
    names = sorted(queues)
    with redis.pipeline(transaction=False) as asked:
        for name in names:
            asked.llen(name)
        return dict(zip(names, asked.execute(), strict=True))


def describe(url: str) -> dict[str, Any]:
    """Return the server's version and policies, or its `error`, without the URL's password."""
    try:
        with Redis.from_url(url, socket_connect_timeout=3, socket_timeout=5) as redis:
            server, memory = redis.info("server"), redis.info("memory")
            replication = redis.info("replication")
    except (RedisError, OSError, ValueError) as error:
        return {"error": str(error) or repr(error)}
    valkey = server.get("valkey_version")
    return {
        "name": "Valkey" if valkey else "Redis",
        "version": valkey or server.get("redis_version"),
        "maxmemory_policy": memory.get("maxmemory_policy"),
        "role": replication.get("role"),
    }


def main(settings: Settings) -> None:
    settings.required("redis_url")
    sys.stdout.write(json.dumps(describe(settings.redis_url or "")) + "\n")


if __name__ == "__main__":
    run(main)
