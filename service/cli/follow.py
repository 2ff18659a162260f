"""Following a job until it ends: asking again and again, through outages of the API."""

import time
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

from service.cli.client import Client, Unavailable
from service.cli.documents import Document, Job

PATIENCE = timedelta(minutes=5)
"""How long the API may be away, as during a deployment, before following it is given up."""

SHORTEST, LONGEST = 0.25, 2.0
"""Seconds between two looks: short jobs are looked at often, long ones less so."""


def follow(
    client: Client, job_id: UUID, *, patience: timedelta = PATIENCE
) -> Iterator[Document[Job] | Unavailable]:
    """Yield the job at each look, last when it has ended; or why there was nothing to see.

    Raises ApiError where the first look fails, where the API refuses, and Unavailable when it has
    been away for longer than `patience`.
    """
    started = seen = time.monotonic()
    yield (document := client.job(job_id))
    while not document.value.ended:
        time.sleep(min(LONGEST, max(SHORTEST, (time.monotonic() - started) / 20)))
        try:
            document = client.job(job_id)
        except Unavailable as error:
            if time.monotonic() - seen > patience.total_seconds():
                raise
            yield error
            continue
        seen = time.monotonic()
        yield document
