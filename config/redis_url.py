"""Where the broker is: `REDIS_URL`, of one server or of Sentinels, with or without TLS."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from config.postgres_url import NO_URL

SCHEMES = ("redis://", "rediss://", "sentinel://", "sentinels://")

_CHECKS = {"required": "required", "optional": "optional", "none": "none"}
_CHECKS |= {f"CERT_{check.upper()}": check for check in _CHECKS}  # as Celery names them
_TLS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_SENTINEL = ("master_name", "sentinel_username", "sentinel_password")

_PARTS = re.compile(
    r"(?P<scheme>[a-z]+)://(?:(?P<name>.*)@)?(?P<hosts>[^/?#@]*)"
    r"(?:/(?P<database>[^?#]*))?(?:\?(?P<query>[^#]*))?",
    re.DOTALL,
)
_HOST = re.compile(r"(?P<name>\[[^]]+\]|[^:\[\]]+)(?::(?P<port>\d+))?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class RedisUrl:
    """The parts of `REDIS_URL`, decoded."""

    hosts: tuple[tuple[str, int], ...]
    """The server, or the Sentinels."""
    username: str | None
    password: str | None = field(repr=False)
    database: int
    tls: Mapping[str, str | bool] | None
    """How to check the other side, with the names of redis-py; None: without TLS."""
    master: str | None
    """The name of the primary at the Sentinels; None: there are none."""
    sentinel_username: str | None
    sentinel_password: str | None = field(repr=False)

    @property
    def files(self) -> list[str]:
        """The files that TLS needs."""
        names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
        return [str(self.tls[name]) for name in names if self.tls and self.tls.get(name)]


def read_redis_url(url: str) -> RedisUrl:
    """Return the parts of a URL. Raises ValueError, which quotes no password."""
    # Celery repeats the scheme for each Sentinel.
    found = _PARTS.fullmatch(re.sub(r";sentinels?://(?:[^/@;]*@)?", ",", url))
    if found is None or f"{found['scheme']}://" not in SCHEMES:
        raise ValueError(NO_URL)
    sentinel = found["scheme"].startswith("sentinel")
    # Else what stands before a / in a password could be taken for a host, by others at least.
    if "/" in (found["name"] or "") or "?" in (found["name"] or ""):
        raise ValueError(NO_URL)
    hosts = tuple(_host(host, 26379 if sentinel else 6379) for host in found["hosts"].split(","))
    if len(hosts) > 1 and not sentinel:
        raise ValueError("names several hosts: give the Sentinels' as sentinel://…?master_name=…")
    pairs = (pair.partition("=") for pair in (found["query"] or "").split("&") if pair)
    query = {unquote(key): unquote(value) for key, _, value in pairs}
    database = query.pop("db", None) or found["database"] or "0"
    if not re.fullmatch(r"\d{1,5}", database, re.ASCII):
        raise ValueError(f"names the database {database!r}: it must be a number")
    username, colon, password = (found["name"] or "").partition(":")
    return RedisUrl(
        hosts=hosts,
        username=unquote(username) or None,
        password=unquote(password) if colon and password else None,
        database=int(database),
        tls=_tls(query, wanted=found["scheme"] in {"rediss", "sentinels"}),
        **_sentinel(query, wanted=sentinel),
    )


def _host(host: str, port: int) -> tuple[str, int]:
    found = _HOST.fullmatch(host.strip())
    if found is None or not 0 < int(found["port"] or port) < 65536:
        raise ValueError(NO_URL)
    return found["name"].strip("[]"), int(found["port"] or port)


def _tls(query: dict[str, str], *, wanted: bool) -> dict[str, str | bool] | None:
    given: dict[str, str | bool] = {key: query.pop(key) for key in _TLS if key in query}
    check = query.pop("ssl_cert_reqs", "required")
    if check not in _CHECKS:
        raise ValueError(f"has ssl_cert_reqs={check}: use required, optional or none")
    if not wanted:
        if given:
            raise ValueError("has TLS options: use them with rediss:// or sentinels://")
        return None
    verified = _CHECKS[check] != "none"
    by_name = str(given.get("ssl_check_hostname", verified)).lower() not in {"false", "0", "no"}
    return {**given, "ssl_cert_reqs": _CHECKS[check], "ssl_check_hostname": verified and by_name}


def _sentinel(query: dict[str, str], *, wanted: bool) -> dict[str, str | None]:
    given = {key: query.pop(key, None) or None for key in _SENTINEL}
    if query:
        known = ", ".join(("db", "ssl_cert_reqs", *_TLS, *(_SENTINEL if wanted else ())))
        raise ValueError(f"has the unknown option {min(query)!r}: there are {known}")
    if wanted and given["master_name"] is None:
        raise ValueError("names Sentinels without ?master_name=…, the primary's name there")
    if not wanted and any(given.values()):
        raise ValueError("has options of Sentinel: use them with sentinel:// or sentinels://")
    return {"master": given.pop("master_name"), **given}
