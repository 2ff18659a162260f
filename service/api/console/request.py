"""The requests of a job: those that failed, and one with its input, answer and every attempt."""

import json
from typing import Any

from service.api import cursors
from service.api.console.looking import Look, Shown
from service.api.console.pages import Page
from service.api.problems import NOT_FOUND, HttpProblem
from service.api.v1.history import History, history
from service.api.v1.jobs import visible_job
from service.payloads.excerpts import excerpt
from service.store import jobs as store

ROWS = 100
MOST_SHOWN = 100_000
"""Bytes of a line that are shown; the rest is left to the downloads."""


def read_failures(look: Look) -> Shown:
    job = visible_job(look.path["job_id"], look.services, look.visitor.caller)
    place = look.query.get("after")
    after = cursors.read(place, cursors.AfterFailure).ordinal if place else -1
    found = store.failures(look.services.db, job.id, after=after, limit=ROWS + 1)
    rows = found[:ROWS]
    more = len(found) > ROWS
    return {
        "job": job,
        "failures": rows,
        "next": cursors.written(cursors.AfterFailure(rows[-1].ordinal)) if more else None,
        "is_first": place is None,
    }


def read(look: Look) -> Shown:
    job = visible_job(look.path["job_id"], look.services, look.visitor.caller)
    custom_id = look.query.get("custom_id", "")
    found = None
    if custom_id and "\x00" not in custom_id:
        found = history(look.services.db, look.services.blobs, job.id, custom_id)
    if found is None:
        raise HttpProblem(NOT_FOUND, "the job has no request of this custom_id")
    return {
        "job": job,
        "found": found,
        "input": _input(look, found),
        "answer": _shown(found.line),
        "attempts": [(one, _shown(one.line)) for one in found.attempts],
    }


def _input(look: Look, found: History) -> str:
    if not found.attempts:
        return ""
    length = min(found.sent.length, MOST_SHOWN + 1)
    place = [(found.sent.offset, length)]
    return _shown(b"".join(excerpt(look.services.blobs, found.attempts[0].part.input_blob, place)))


def _shown(line: bytes | None) -> str:
    """Return a line as people read it: folded JSON, or as it is."""
    if line is None:
        return ""
    if len(line) > MOST_SHOWN:
        return line[:MOST_SHOWN].decode(errors="replace") + "\n… cut here"
    try:
        value: Any = json.loads(line)
        return json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return line.decode(errors="replace")


FAILURES = Page(
    path="/jobs/{job_id}/failures",
    title="Failed requests",
    template="failures.html",
    read=read_failures,
    is_live=False,
)
PAGE = Page(
    path="/jobs/{job_id}/request",
    title="Request",
    template="request.html",
    read=read,
    is_live=False,
)
