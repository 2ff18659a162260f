"""The content of a notice, for Celery tasks and webhooks alike."""

from typing import Any

import msgspec

from service.notices.results import Omitted, Results
from service.store.notices import Sending
from service.store.views import JobView


def content(sending: Sending, results: Results | None) -> dict[str, Any]:
    """Return the event, the id of the delivery, and the job as the API shows it.

    If results were asked for, also those, or why they are missing.
    """
    fixed = {
        "event": sending.event,
        "delivery": str(sending.id),
        "job": JobView.of(sending.job, sending.forecast).model_dump(mode="json"),
    }
    match results:
        case None:
            return fixed
        case Omitted():
            return fixed | {"results": None, "results_omitted": msgspec.to_builtins(results)}
        case _:
            return fixed | {"results": results, "results_omitted": None}


def body(sending: Sending, results: Results | None) -> str:
    """Return the content as JSON, for the body of a webhook."""
    return msgspec.json.encode(content(sending, results)).decode()
