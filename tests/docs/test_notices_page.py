"""What docs/notices.md gives receivers to verify webhooks with, on webhooks as they are sent."""

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from service.notices.webhooks import _headers
from tests.docs.reference import ROOT

SECRET = f"whsec_{base64.b64encode(bytes(32)).decode()}"
OLDER = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
BODY = json.dumps({"event": "job.completed", "delivery": "d", "job": {"id": "j"}})


def shown(name: str) -> Any:
    """A function of the page."""
    page = (ROOT / "docs" / "notices.md").read_text()
    (block,) = [
        found
        for found in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if f"def {name}(" in found
    ]
    defined: dict[str, Any] = {}
    exec(block.replace("whsec_…", SECRET), defined)
    return defined[name]


@pytest.fixture
def headers() -> dict[str, str]:
    """While a secret is changed, webhooks are signed with both."""
    return _headers("d", BODY, [OLDER, SECRET])


def test_the_library_takes_what_is_signed(headers: dict[str, str]) -> None:
    receive = shown("receive")

    assert receive(BODY.encode(), headers) == {"id": "j"}
    with pytest.raises(WebhookVerificationError):
        receive(BODY.encode() + b" ", headers)


def test_without_a_library_the_same_is_genuine(headers: dict[str, str]) -> None:
    is_genuine = shown("is_genuine")

    assert is_genuine(SECRET, headers, BODY.encode())
    assert is_genuine(OLDER, headers, BODY.encode())
    assert not is_genuine(SECRET, headers, BODY.encode() + b" ")
    assert not is_genuine(f"whsec_{base64.b64encode(b'x' * 32).decode()}", headers, BODY.encode())
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    old = {
        **headers,
        "webhook-timestamp": str(int(hour_ago.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("d", hour_ago, BODY),
    }
    assert not is_genuine(SECRET, old, BODY.encode())
