"""All pages, in the order of the menu."""

from service.api.console import jobs, lanes, overview

PAGES = (
    overview.PAGE,
    jobs.PAGE,
    jobs.SUGGESTIONS,
    jobs.JOB,
    lanes.PAGE,
)
