"""All pages, in the order of the menu."""

from service.api.console import (
    accounts,
    audit,
    batches,
    errors,
    job,
    jobs,
    lanes,
    notices,
    overview,
    processes,
    producers,
    request,
    settings,
)

PAGES = (
    overview.PAGE,
    jobs.PAGE,
    jobs.SUGGESTIONS,
    job.PAGE,
    request.FAILURES,
    request.PAGE,
    errors.PAGE,
    lanes.PAGE,
    accounts.PAGE,
    batches.PAGE,
    batches.BATCH,
    notices.PAGE,
    producers.PAGE,
    producers.PRODUCER,
    processes.PAGE,
    audit.PAGE,
    settings.PAGE,
)
