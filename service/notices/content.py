"""The content of a notice, for Celery tasks and webhooks alike."""

from typing import Any

import msgspec

from service.store.notices import Sending
from service.store.views import JobView


def content(sending: Sending) -> dict[str, Any]:
    """Return the event, the id of the delivery, and the job as the API shows it."""
    return {
        "event": sending.event,
        "delivery": str(sending.id),
        "job": JobView.of(sending.job).model_dump(mode="json"),
    }


def body(sending: Sending) -> str:
    """Return the content as JSON, for the body of a webhook."""
    return msgspec.json.encode(content(sending)).decode()
