"""Many calls as one job: what is sent, and how its end is waited for."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from haulier_client.errors import Unavailable, Unreachable
from haulier_client.plans import Plan, show
from haulier_client.views import Job

PATIENCE = 600.0
"""Seconds for which the API may be away before waiting for it ends with an error."""
PATIENT_PAUSES = (0.5, 1.0, 2.0, 4.0, *[8.0] * int(PATIENCE // 8))


def requests(bodies: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bodies as requests that are called by their places."""
    return [{"custom_id": str(place), "body": body} for place, body in enumerate(bodies)]


def ended(job: Job, poll: float, seen: Callable[[Job], None]) -> Plan[Job]:
    """Look at a job every `poll` seconds until it has ended, through outages of the API."""
    last_seen = time.monotonic()
    while not job.ended:
        yield poll
        try:
            job = yield from show(job)
        except (Unreachable, Unavailable):
            if time.monotonic() - last_seen > PATIENCE:
                raise
        else:
            last_seen = time.monotonic()
            seen(job)
    return job
