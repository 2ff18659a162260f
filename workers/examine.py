"""Describes the broker for `haulier doctor`.

`python -m workers.examine` writes one JSON document about the server to standard output.
"""

import json
import sys
from typing import Any

from redis.exceptions import RedisError, ResponseError

from config.settings import Settings
from workers.broker import connect
from workers.process import run
from workers.unread import lists_nobody_reads

STEPS = 1_000
"""How many times to look at 1,000 keys, for lists that nobody reads."""


def describe(url: str) -> dict[str, Any]:
    """Return the server's version and policies, or its `error`, without the URL's password."""
    try:
        with connect(url) as redis:
            server, memory = redis.info("server"), redis.info("memory")
            replication = redis.info("replication")
            unread = _unread(url)
    except (RedisError, OSError, ValueError) as error:
        return {"error": str(error) or repr(error)}
    valkey = server.get("valkey_version")
    return {
        "name": "Valkey" if valkey else "Redis",
        "version": valkey or server.get("redis_version"),
        "maxmemory_policy": memory.get("maxmemory_policy"),
        "role": replication.get("role"),
        "unread": unread,
    }


def _unread(url: str) -> dict[str, int] | None:
    try:
        return lists_nobody_reads(url, steps=STEPS)
    except ResponseError:  # a right that nobody needs for the work
        return None


def main(settings: Settings) -> None:
    settings.required("redis_url")
    sys.stdout.write(json.dumps(describe(settings.redis_url or "")) + "\n")


if __name__ == "__main__":
    run(main)
