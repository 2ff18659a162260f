"""Connections to Redis: ours and Celery's."""

from collections.abc import Iterable, Mapping
from ssl import CERT_NONE, CERT_OPTIONAL, CERT_REQUIRED
from typing import Any
from urllib.parse import quote

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from config.redis_url import RedisUrl, read_redis_url


def connect(
    url: str, *, database: int | None = None, connect_timeout: float = 3, timeout: float = 5
) -> Redis:
    """Return a client of the broker: of the server itself, or of the Sentinels' primary.

    `database` is the number of another database than the URL's.
    """
    place = read_redis_url(url)
    options: dict[str, Any] = {
        "db": place.database if database is None else database,
        "username": place.username,
        "password": place.password,
        "socket_connect_timeout": connect_timeout,
        "socket_timeout": timeout,
        "health_check_interval": 10,
        # What moves messages must not be done twice because its answer was lost.
        "retry": Retry(NoBackoff(), 0),
    }
    if place.tls is not None:
        options |= {"ssl": True, **place.tls}
    if place.master is None:
        ((host, port),) = place.hosts
        return Redis(host=host, port=port, **options)
    sentinels: Any = Sentinel
    made = sentinels(place.hosts, sentinel_kwargs=_of_sentinels(place), **options)
    primary: Redis = made.master_for(place.master)
    return primary


def celery_settings(url: str) -> dict[str, Any]:
    """Return Celery's settings of the broker. Each process here uses them."""
    place = read_redis_url(url)
    name = ":".join(quote(part or "", safe="") for part in (place.username, place.password))
    scheme = "redis" if place.master is None else "sentinel"
    hosts = (f"[{host}]" if ":" in host else host for host, _ in place.hosts)
    ports = (port for _, port in place.hosts)
    options: dict[str, Any] = {
        # Without a timeout, a publish to a frozen Redis blocks for ever.
        "socket_timeout": 5,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "visibility_timeout": 3600,
    }
    if place.master is not None:
        options |= {"master_name": place.master, "sentinel_kwargs": _of_sentinels(place)}
    return {
        "broker_url": [
            f"{scheme}://{name}@{host}:{port}/{place.database}"
            for host, port in zip(hosts, ports, strict=True)
        ],
        "broker_use_ssl": _for_kombu(place.tls),
        "broker_transport_options": options,
        "broker_pool_acquire_timeout": 5,
        "task_publish_retry_policy": {"max_retries": 0},
    }


def _of_sentinels(place: RedisUrl) -> dict[str, Any]:
    """Return the options of connections to the Sentinels themselves."""
    options: dict[str, Any] = {
        "username": place.sentinel_username,
        "password": place.sentinel_password,
        "socket_connect_timeout": 1,
        "socket_timeout": 3,
        "retry": Retry(NoBackoff(), 0),  # the next Sentinel is asked instead
    }
    return options if place.tls is None else {**options, "ssl": True, **place.tls}


def _for_kombu(tls: Mapping[str, str | bool] | None) -> dict[str, Any] | bool:
    if tls is None:
        return False
    checks = {"required": CERT_REQUIRED, "optional": CERT_OPTIONAL, "none": CERT_NONE}
    return {**tls, "ssl_cert_reqs": checks[str(tls["ssl_cert_reqs"])]}


def depths(redis: Redis, queues: Iterable[str]) -> dict[str, int]:
    """Return how many messages each queue holds. Raises RedisError."""
    names = sorted(queues)
    with redis.pipeline(transaction=False) as asked:
        for name in names:
            asked.llen(name)
        return dict(zip(names, asked.execute(), strict=True))
