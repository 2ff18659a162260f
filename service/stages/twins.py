"""Twins: batches that an unanswered create made after all, under a file that was given up."""

from collections.abc import Collection

import structlog

from service.together.client import Together

log = structlog.get_logger()


def cancel_twins(together: Together, spent_file_ids: Collection[str]) -> int:
    """Cancel what runs under the files. Returns how many there were; safe to do again."""
    twins = [
        job
        for job in together.batches()
        if job.input_file_id in spent_file_ids and not job.ended and job.status != "CANCELLING"
    ]
    for twin in twins:
        log.error("twin_batch_cancelled", provider_batch_id=twin.id)
        together.cancel(twin.id)
    return len(twins)
