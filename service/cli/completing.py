"""Job ids for the shell's completion."""

from config.settings import settings
from service.cli.api import Api
from service.cli.place import find
from service.cli.screen import age

NEWEST = 50
"""Jobs that are offered."""

TIMEOUT = 2.0
"""Seconds that somebody who has pressed Tab waits at most."""


def job_ids(incomplete: str) -> list[tuple[str, str]]:
    """The newest jobs' ids that begin so, and a word on each for shells that show it.

    Nothing, silently, where there is no API: a completion has nowhere to complain.
    """
    try:
        with Api(find(settings()), timeout=TIMEOUT) as api:
            jobs = [document.value for document in api.jobs(limit=NEWEST)]
    except Exception:  # noqa: BLE001 - whatever it is, it must not end up in somebody's prompt
        return []
    return [
        (job.id, f"{job.state}, {job.total:,} requests, {age(job.created_at)} ago")
        for job in jobs
        if job.id.startswith(incomplete)
    ]
