"""Keeps the values of secrets out of what is written: log lines, and error messages in rows.

An error of a library may quote anything: a header with a key, a URL with a password.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.parse import quote, unquote, urlsplit

from config.redis_url import SCHEMES, read_redis_url
from config.settings import Settings

HIDDEN = "[hidden]"

SHORTEST = 6
"""Shorter texts are no secrets, and hiding them would make nonsense of what is written."""

SIMULATED = "simulated"
"""The key that `haulier up --simulate` and docker-compose.yml give the simulator. It opens nothing,
and errors of the simulator hold the word."""

_OF_OTHERS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Redactor:
    """Replaces the values of secrets in a text."""

    def __init__(self, secrets: Iterable[str]) -> None:
        plain = {secret for secret in secrets if len(secret) >= SHORTEST} - {SIMULATED}
        # Python and JSON may write them with escapes, one after the other.
        written = plain | {repr(secret)[1:-1] for secret in plain}
        written |= {json.dumps(secret)[1:-1] for secret in written}
        # Longest first: one secret may contain another.
        self._secrets = sorted(written, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, HIDDEN)
        return text


_known = Redactor(())


def learn(settings: Settings) -> Redactor:
    """Let `redact` know the secrets of this process. Returns what hides them."""
    global _known  # noqa: PLW0603  one process has one set of secrets
    _known = Redactor(_secrets(settings))
    return _known


def redact(text: str) -> str:
    """Return a text without the values of this process's secrets."""
    return _known(text)


def _secrets(settings: Settings) -> Iterator[str]:
    given = [settings.together_api_key, settings.admin_token, settings.token]
    given += [account.api_key for account in settings.accounts.values()]
    yield from (secret.get_secret_value() for secret in given if secret is not None)
    yield from (os.environ.get(name, "") for name in _OF_OTHERS)
    proxies = (os.environ.get(name) for upper in _PROXIES for name in (upper, upper.lower()))
    for url in (settings.database_url, settings.redis_url, *proxies):
        if url:
            yield from _passwords(url)


def _passwords(url: str) -> Iterator[str]:
    """Yield a URL's passwords, as they are written in it and as they are meant."""
    # Libraries disagree on where a password with a / or an @ in it ends.
    found = [match[1] for match in re.finditer("(?=://[^:/@]*:([^@]*)@)", url)]
    found += re.findall("[?&][a-z]*password=([^&]*)", url)
    if url.startswith(SCHEMES):
        with suppress(ValueError):
            parts = read_redis_url(url)
            found += filter(None, (parts.password, parts.sentinel_password))
    user = None
    with suppress(ValueError):
        user = urlsplit(url).username
        found += [urlsplit(url).password or ""]
    for password in found:
        if password != user:  # no secret, and often a word that stands everywhere
            yield password
            yield unquote(password)
            yield quote(unquote(password), safe="")
