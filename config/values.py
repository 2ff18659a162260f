"""The types of settings: what a value may look like. Refusals never quote the value of a secret."""

import json
import os
import re
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from config.postgres_url import conninfo
from config.redis_url import read_redis_url


def _base_url(value: object) -> object:
    """Return the host as Together's SDK takes it, without a trailing `/v1`."""
    if not isinstance(value, str):
        return value
    url = _plain(value).rstrip("/").removesuffix("/v1").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise ValueError("must not hold a user or a password")
    return url


def _plain(url: str) -> str:
    """Strip a URL, and refuse what a library would quote in an error, with the password in it."""
    url = url.strip()
    if not url.isprintable():
        raise ValueError("has a line end or a control character in it")
    return url


def url_of(*schemes: str) -> BeforeValidator:
    def check(value: object) -> object:
        if not isinstance(value, str):
            return value
        url = _plain(value)
        if not url.startswith(schemes):
            raise ValueError(f"must start with {' or '.join(schemes)}")
        return url

    return BeforeValidator(check)


def of_postgres(url: str | None) -> str | None:
    """Refuse a URL whose hosts may be the rest of a password: errors quote them."""
    if url is not None:
        conninfo(url)
    return url


def of_redis(url: str | None) -> str | None:
    """Refuse a URL whose port may be the rest of a password, and options that nobody reads."""
    if url is None:
        return url
    for file in read_redis_url(url).files:
        if not os.access(file, os.R_OK):
            raise ValueError(f"names the file {file}, which this process cannot read")
    return url


def without_keys(url: str | None) -> str | None:
    """Refuse keys in a URL: errors quote it."""
    if url is not None and "@" in urlsplit(url).netloc:
        raise ValueError("must not hold keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    return url


def _seconds(value: object) -> object:
    """Parse a duration: a number of seconds in the environment, a timedelta in the code."""
    if isinstance(value, str):
        try:
            return timedelta(seconds=float(value))
        except (ValueError, OverflowError):
            raise ValueError(f"must be a number of seconds, not {value!r}") from None
    return value


BaseUrl = Annotated[str, BeforeValidator(_base_url)]
Seconds = Annotated[timedelta, BeforeValidator(_seconds), Field(gt=timedelta(0))]
SecondsOrNone = Annotated[timedelta, BeforeValidator(_seconds), Field(ge=timedelta(0))]


def _public_url(value: object) -> object:
    if not isinstance(value, str):
        return value
    parts = urlsplit(_plain(value))
    # Asking for a port that is none raises a ValueError.
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("must be the URL that clients use, like https://haulier.example")
    if parts.query or parts.fragment or parts.username is not None:
        raise ValueError("must have no query, no fragment and no user name")
    return value.strip().rstrip("/")


PublicUrl = Annotated[str, BeforeValidator(_public_url)]


def _networks(value: object) -> object:
    """Parse addresses and networks: listed with commas or spaces, or as a JSON list."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value) if value.lstrip().startswith("[") else re.split(r"[,\s]+", value)
        return tuple(ip_network(one.strip()) for one in found if one.strip())
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"must list addresses and networks, like 10.0.0.0/8: {error}") from None


Network = IPv4Network | IPv6Network
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]


def _printable(secret: SecretStr) -> SecretStr:
    """Strip a secret, and refuse what cannot stand in a header: an error would quote it."""
    value = secret.get_secret_value().strip()
    if not value:
        raise ValueError("holds nothing but white space")
    if not re.fullmatch(r"[\x21-\x7e]*", value):
        raise ValueError("has a space, a line end or a character beyond ASCII in it")
    return SecretStr(value)


Secret = Annotated[SecretStr, AfterValidator(_printable)]


LEAST_TOKEN = 20
"""Fewer characters than these can be guessed."""


def _long(token: SecretStr | None) -> SecretStr | None:
    if token is not None and len(token.get_secret_value()) < LEAST_TOKEN:
        raise ValueError(
            f"is shorter than {LEAST_TOKEN} characters: make a random one with"
            " python -c 'import secrets; print(secrets.token_urlsafe(24))'"
        )
    return token


AdminToken = Annotated[Secret | None, AfterValidator(_long)]


def _name(name: str) -> str:
    if not name.isprintable() or len(name) > 255:
        raise ValueError("must be a name of at most 255 characters, without control characters")
    return name


Name = Annotated[str, AfterValidator(_name)]


def _header_name(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[A-Za-z0-9-]{1,100}", name):
        raise ValueError("must be the name of a header, like X-Forwarded-User")
    return name


HeaderName = Annotated[str | None, AfterValidator(_header_name)]


class Role(StrEnum):
    """What somebody whom a proxy logs in may do in the console."""

    VIEWER = "viewer"
    """Look at everything."""
    OPERATOR = "operator"
    """Also retry and cancel jobs, and pause and resume lanes and accounts."""
    ADMIN = "admin"
    """Also change producers and their tokens."""
