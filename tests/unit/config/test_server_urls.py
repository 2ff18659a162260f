"""Where Postgres and Redis are: what URLs become."""

import pytest
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from config.postgres_url import PARAMETERS, conninfo
from config.redis_url import read_redis_url
from config.values import of_postgres, of_redis


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("postgresql://u:p@h:1/d", {"user": "u", "password": "p", "host": "h", "port": "1"}),
        ("postgres://u@h1:1,h2:2/d", {"host": "h1,h2", "port": "1,2"}),
        ("postgresql://u@h1,h2/d?target_session_attrs=read-write", {"host": "h1,h2"}),
        ("postgresql:///d?host=h1:1&host=h2", {"host": "h1,h2", "port": "1,"}),
        ("postgresql:///d?host=h1,h2&port=1,2", {"host": "h1,h2", "port": "1,2"}),
        ("postgresql:///d?host=/var/run", {"host": "/var/run"}),
        ("postgresql://[::1]:5/d", {"host": "::1", "port": "5"}),
        (
            "postgresql://a%40b:p%40s%3A%2F%3F%23%20%25@h/d",
            {"user": "a@b", "password": "p@s:/?# %"},
        ),
        ("postgresql://u:ö/s:?# %zz%@h/d", {"password": "ö/s:?# %zz%"}),
        ("postgresql://h/d%2Fe?application_name=a%20b+c", {"dbname": "d/e"}),
    ],
)
def test_libpq_reads_what_was_meant(url: str, parts: dict[str, str]) -> None:
    found = conninfo_to_dict(conninfo(of_postgres(url) or ""))
    assert found == {**found, "dbname": "d", **parts}


def test_every_parameter_of_libpq_may_stand_in_a_url() -> None:
    assert {option.keyword.decode() for option in pq.Conninfo.get_defaults()} <= PARAMETERS
    with pytest.raises(ValueError, match=r"a parameter that libpq does not know: prepare$"):
        of_postgres("postgresql://h/d?prepare=off")


@pytest.mark.parametrize(
    ("url", "hosts", "name", "tls"),
    [
        ("redis://h", [("h", 6379)], (None, None), None),
        ("redis://:p@h:1/2", [("h", 1)], (None, "p"), None),
        ("redis://u:p%40%3A%2F%23%3F%20%25@h", [("h", 6379)], ("u", "p@:/#? %"), None),
        ("redis://u:a@b:c#ö %@[::1]:7/0", [("::1", 7)], ("u", "a@b:c#ö %"), None),
        ("rediss://h", [("h", 6379)], (None, None), ("required", True)),
        ("rediss://h?ssl_cert_reqs=none", [("h", 6379)], (None, None), ("none", False)),
        ("rediss://h?ssl_cert_reqs=CERT_OPTIONAL", [("h", 6379)], (None, None), ("optional", True)),
        ("rediss://h?ssl_check_hostname=false", [("h", 6379)], (None, None), ("required", False)),
        ("sentinel://a,b:1/3?master_name=m", [("a", 26379), ("b", 1)], (None, None), None),
        (
            "sentinel://:p@a:1;sentinel://:p@b:2/3?master_name=m",
            [("a", 1), ("b", 2)],
            (None, "p"),
            None,
        ),
        ("sentinels://a?master_name=m", [("a", 26379)], (None, None), ("required", True)),
    ],
)
def test_a_url_of_redis_has_parts(
    url: str,
    hosts: list[tuple[str, int]],
    name: tuple[str | None, str | None],
    tls: tuple[str, bool] | None,
) -> None:
    found = read_redis_url(url)
    assert (list(found.hosts), (found.username, found.password)) == (hosts, name)
    checks = found.tls and (found.tls["ssl_cert_reqs"], found.tls["ssl_check_hostname"])
    assert checks == tls
    assert found.master == ("m" if "sentinel" in url else None)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://a,b/0", "several hosts"),
        ("redis://a/x", "the database 'x'"),
        ("redis://a?socket_timeout=5", "unknown option 'socket_timeout'"),
        ("redis://a?ssl_ca_certs=/ca", "use them with rediss://"),
        ("rediss://a?ssl_ca_certs=/nowhere/ca.pem", "/nowhere/ca.pem, which this process cannot"),
        ("rediss://a?ssl_cert_reqs=maybe", "required, optional or none"),
        ("redis://a?master_name=m", "use them with sentinel://"),
        ("sentinel://a,b/0", "without .master_name"),
        ("redis://a:70000", "is not a URL"),
        ("redis://", "is not a URL"),
    ],
)
def test_a_url_of_redis_that_nobody_could_use_is_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        of_redis(url)


def test_a_plus_in_a_password_is_one() -> None:
    found = read_redis_url("sentinel://:a+b@h?master_name=m&sentinel_password=c+d%20e")
    assert (found.password, found.sentinel_password) == ("a+b", "c+d e")
