"""Signing what goes between Haulier and a producer, as Standard Webhooks prescribes."""

import base64
import hmac
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

SECRET_BYTES = 32


def new_secret() -> str:
    """A secret of a producer: `whsec_` and random bytes in base64."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}"


def is_signed(
    data: str, *, message_id: str, timestamp: str, signatures: str, by: Sequence[str]
) -> bool:
    """Whether one of the signatures (`v1,… v1,…`) was made with one of the secrets.

    `timestamp` is in Unix seconds. How long ago that was does not matter: messages may wait in
    their queue for days, and the message's id is what makes a repeated one harmless.
    """
    try:
        instant = datetime.fromtimestamp(int(timestamp), tz=UTC)
    except (ValueError, OverflowError, OSError):
        return False
    given = [signature.encode() for signature in signatures.split()]
    made = [one.encode() for one in sign(data, message_id=message_id, instant=instant, by=by)]
    return any(hmac.compare_digest(one, other) for one in given for other in made)


def sign(data: str, *, message_id: str, instant: datetime, by: Sequence[str]) -> list[str]:
    """Return the signature (`v1,…`) of a message with each of the secrets, in their order."""
    return [Webhook(secret).sign(message_id, instant, data) for secret in by]
