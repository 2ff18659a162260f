"""What a notice says."""

from typing import Any

import msgspec

from service.store.notices import Sending
from service.store.views import JobView


def content(sending: Sending) -> dict[str, Any]:
    """The event, the delivery's id and the job, as the API shows it."""
    return {
        "event": sending.event,
        "delivery": str(sending.id),
        "job": JobView.of(sending.job).model_dump(mode="json"),
    }


def body(sending: Sending) -> str:
    """The content as JSON."""
    return msgspec.json.encode(content(sending)).decode()
