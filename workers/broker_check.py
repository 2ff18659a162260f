"""Looks at the broker, for `haulier doctor`: writes one JSON document, whatever it finds."""

import json
import sys
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from config.settings import Settings
from workers.process import run


def looked_at(url: str) -> dict[str, Any]:
    """Its version and what it does when it is full; or the `error`, without the URL's password."""
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
    sys.stdout.write(json.dumps(looked_at(settings.redis_url or "")) + "\n")


if __name__ == "__main__":
    run(main)
