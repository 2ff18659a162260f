"""Jobs: the list, with its search, and one job with its verbs."""

from collections.abc import Mapping

from service.api import cursors
from service.api.acting import operator_of
from service.api.console.looking import Look, Shown
from service.api.console.pages import Page, Verb
from service.api.console.search import read_search
from service.api.console.visitor import Power
from service.api.v1 import jobs as api
from service.api.v1 import retrying
from service.store import jobs as store
from service.store.audit import Actor
from service.store.forecasts import shown
from service.store.models import Job

PAGE_ROWS = 50


def read(look: Look) -> Shown:
    asked = read_search(look.query.get("q", ""))
    before = look.query.get("before")
    after = cursors.read(before, cursors.AfterJob) if before else None
    if look.sees is not None and asked.producer not in {None, look.sees}:
        found: list[Job] = []  # others' jobs do not exist
    else:
        found = store.jobs(
            look.services.db,
            producer=look.sees or asked.producer,
            states=asked.states,
            marks=asked.marks,
            created_from=asked.created_from,
            created_before=asked.created_before,
            before=(after.created_at, after.id) if after else None,
            calls=asked.calls,
            id_begins=asked.id_begins,
            limit=PAGE_ROWS + 1,
        )
    rows = found[:PAGE_ROWS]
    older = None
    if len(found) > PAGE_ROWS:
        older = cursors.written(cursors.AfterJob(rows[-1].created_at, rows[-1].id))
    return {
        "jobs": rows,
        "forecasts": shown(look.services.db, rows),
        "q": look.query.get("q", ""),
        "older": older,
        "is_first": before is None,
        "problems": asked.problems,
    }


def read_job(look: Look) -> Shown:
    services, caller = look.services, look.visitor.caller
    job = api.visible_job(look.path["job_id"], services, caller)
    return {"job": api.show_job(job, services)}


def _cancel(look: Look, _sent: Mapping[str, str]) -> str:
    job = api.visible_job(look.path["job_id"], look.services, look.visitor.caller)
    api.cancel_job(job, look.services, look.visitor.caller, _operator(look, job))
    return "The job is being cancelled. What Together has done already is kept."


def _retry(look: Look, _sent: Mapping[str, str]) -> str:
    job = api.visible_job(look.path["job_id"], look.services, look.visitor.caller)
    retrying.retry_job(job, look.services, look.visitor.caller, _operator(look, job))
    return "The failed requests go again."


def _operator(look: Look, job: Job) -> Actor | None:
    return operator_of(job, look.visitor.caller, look.visitor.actor)


PAGE = Page(path="/jobs", title="Jobs", menu="Jobs", template="jobs.html", read=read)
JOB = Page(
    path="/jobs/{job_id}",
    title="Job",
    template="job.html",
    read=read_job,
    verbs=(
        Verb(path="/jobs/{job_id}/cancel", needs=Power.CANCEL, do=_cancel),
        Verb(path="/jobs/{job_id}/retry", needs=Power.SUBMIT, do=_retry),
    ),
)
