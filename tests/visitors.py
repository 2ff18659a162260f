"""Browsers without a window: what they send to the console, for tests of its routes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.api import Api

SAME = {"Sec-Fetch-Site": "same-origin"}
"""What a browser says of a form that one of the site's own pages sends."""


@contextmanager
def browser(api: Api, token: str | None = None, **headers: str) -> Iterator[httpx.Client]:
    """What sends the headers of a browser, logged in with a token."""
    with httpx.Client(
        base_url=api.url, headers={**SAME, **headers}, trust_env=False, verify=False, timeout=30
    ) as client:
        if token is not None:
            answer = client.post("/console/login", data={"token": token})
            assert answer.status_code == 303, answer.text
        yield client


def csrf(client: httpx.Client, path: str = "/console/") -> str:
    """The token that the forms of a page send."""
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', client.get(path).text)
    assert found is not None
    return found[1]
