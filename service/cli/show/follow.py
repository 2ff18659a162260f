"""Following a job until it ends: asking again and again, through outages of the API."""

import time
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

from haulier_client import HaulierError

from service.cli.api import Api, is_away
from service.cli.documents import Document, Job

PATIENCE = timedelta(minutes=5)
"""How long the API may be away, as during a deployment, before following it is given up."""

SHORTEST, LONGEST = 0.25, 2.0
"""Seconds between two looks: short jobs are looked at often, long ones less so."""


def follow(
    api: Api, job_id: UUID, *, patience: timedelta = PATIENCE
) -> Iterator[Document[Job] | HaulierError]:
    """Yield the job at each look, the last time when it has ended; or why the API gave no answer.

    Raises HaulierError if the first look fails, if the API refuses a later one, or if it has been
    away for longer than `patience`.
    """
    started = seen = time.monotonic()
    yield (document := api.job(job_id))
    while not document.value.ended:
        time.sleep(min(LONGEST, max(SHORTEST, (time.monotonic() - started) / 20)))
        try:
            document = api.job(job_id)
        except HaulierError as error:
            if not is_away(error) or time.monotonic() - seen > patience.total_seconds():
                raise
            yield error
            continue
        seen = time.monotonic()
        yield document
