"""Where Postgres is: `DATABASE_URL`, as libpq takes it."""

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

NO_URL = "is not a URL: write : / ? # @ within a password in percent-encoding"

_PARTS = re.compile(
    r"postgres(?:ql)?://(?:(?P<user>[^:/@]*)(?P<password>:[^@]*)?@)?"
    r"(?P<hosts>[^/?#]*)(?P<database>/[^?@]*)?(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_HOST = re.compile(r"(\[[^]@]*\]|[^:@\[\]]*)(:\d*)?", re.ASCII)

_OF_LIBPQ_18 = """
application_name channel_binding client_encoding connect_timeout dbname fallback_application_name
gssdelegation gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle
keepalives_interval krbsrvname load_balance_hosts max_protocol_version min_protocol_version
oauth_client_id oauth_client_secret oauth_issuer oauth_scope options passfile password port
replication require_auth requirepeer scram_client_key scram_server_key service servicefile ssl
ssl_max_protocol_version ssl_min_protocol_version sslcert sslcertmode sslcompression sslcrl
sslcrldir sslkey sslkeylogfile sslmode sslnegotiation sslpassword sslrootcert sslsni
target_session_attrs tcp_user_timeout user
"""
PARAMETERS = frozenset(_OF_LIBPQ_18.split())
"""What may stand in the query of a URL."""


def conninfo(url: str) -> str:
    """Return a URL as libpq reads it, where SQLAlchemy's ways to write one are more.

    Raises ValueError where what stands for a host or a port may be the rest of a password (errors
    of connections quote hosts), and for a parameter that libpq does not know.
    """
    found = _PARTS.fullmatch(url)
    if found is None or not all(_HOST.fullmatch(host) for host in found["hosts"].split(",")):
        raise ValueError(NO_URL)
    user = _encoded(found["user"] or "")
    password = ":" + _encoded(found["password"][1:]) if found["password"] else ""
    name = f"{user}{password}@" if user or password else ""
    database = f"/{_encoded(found['database'][1:])}" if found["database"] else ""
    query = "&".join(_query((found["query"] or "").split("&")))
    return f"postgresql://{name}{found['hosts']}{database}{'?' if query else ''}{query}"


def _encoded(text: str) -> str:
    """Return a part of a URL in percent-encoding, whether it was in it before or not."""
    return quote(unquote(text), safe="")


def _query(written: Iterable[str]) -> Iterable[str]:
    """Yield the query's parameters. Several of `host`, each with its port, become one."""
    given = [tuple(map(unquote, pair.partition("=")[::2])) for pair in written if pair]
    for key, _ in given:
        if not re.fullmatch("[a-z_]+", key):
            raise ValueError(NO_URL)
        if key not in PARAMETERS:
            raise ValueError(f"has a parameter that libpq does not know: {key}")
    hosts = [value for key, value in given if key == "host"]
    if any("@" in host for host in hosts):
        raise ValueError(NO_URL)
    others = [(key, value) for key, value in given if key != "host"]
    places = [re.fullmatch(r"(\[.*\]|[^:/]*)(?::(\d+))?", host) for host in hosts]
    if any(place and place[2] for place in places):
        others.append(("port", ",".join((place and place[2]) or "" for place in places)))
        hosts = [
            place[1].strip("[]") if place else host
            for place, host in zip(places, hosts, strict=True)
        ]
    if hosts:
        others.append(("host", ",".join(hosts)))
    for key, value in others:
        yield f"{key}={quote(value, safe='/,:')}"
