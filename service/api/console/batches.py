"""Batches: a list with its filters, and one batch with what travels in it."""

from collections.abc import Mapping
from uuid import UUID

from service.api import cursors
from service.api.console.looking import Look, Shown
from service.api.console.pages import Page, Verb
from service.api.console.visitor import Power
from service.api.problems import NOT_FOUND, NOTHING_PARKED, HttpProblem
from service.api.v1.jobs import visible_job
from service.api.v1.retrying import Abandon, abandon_job
from service.rules.errors import Conflict
from service.rules.states import BatchState
from service.store import batches as store
from service.store.models import Batch
from service.store.parked import unpark

ROWS = 50
MOST_EVENTS = 200
LONGEST_NAME = 200


def read(look: Look) -> Shown:
    query = look.query
    named = query.get("id", "").strip()[:LONGEST_NAME].replace("\x00", "")
    state = query.get("state", "")
    place = query.get("before")
    after = cursors.read(place, cursors.AfterJob) if place else None
    found = store.batches(
        look.services.db,
        producer=look.sees,
        states=[BatchState(state)] if state in set(BatchState) else (),
        parked=state == "parked",
        named=named or None,
        before=(after.created_at, after.id) if after else None,
        limit=ROWS + 1,
    )
    rows = found[:ROWS]
    more = len(found) > ROWS
    return {
        "batches": rows,
        "id": named,
        "state": state,
        "states": [*BatchState, "parked"],
        "older": cursors.written(cursors.AfterJob(rows[-1].created_at, rows[-1].id))
        if more
        else None,
        "is_first": place is None,
    }


def _batch(look: Look) -> Batch:
    try:
        found = store.batch(look.services.db, UUID(look.path["batch_id"]), look.sees)
    except ValueError:
        found = None
    if found is None:
        raise HttpProblem(NOT_FOUND, "there is no such batch")
    return found


def read_one(look: Look) -> Shown:
    batch, db = _batch(look), look.services.db
    parts = store.parts_in(db, batch.id)
    return {
        "batch": batch,
        "parts": parts,
        "events": store.events_of(db, batch.id, MOST_EVENTS),
        "most_parts": store.MOST_PARTS,
        "job": parts[0][1].id if parts else None,
    }


def _of_first_job(look: Look) -> UUID:
    parts = store.parts_in(look.services.db, _batch(look).id)
    if not parts:
        raise HttpProblem(NOTHING_PARKED, "no job travels in the batch any more")
    return parts[0][1].id


def _unpark(look: Look, _sent: Mapping[str, str]) -> str:
    try:
        rows = unpark(look.services.db, _of_first_job(look), operator=look.visitor.actor)
    except Conflict as error:
        raise HttpProblem(NOTHING_PARKED, str(error)) from None
    if not rows:
        raise HttpProblem(NOTHING_PARKED, "nothing waits for an operator here any more")
    return "What was parked goes on."


def _abandon(look: Look, sent: Mapping[str, str]) -> str:
    job_id, caller = _of_first_job(look), look.visitor.caller
    asked = Abandon(requests="again" if sent.get("requests") == "again" else "dead")
    job = visible_job(str(job_id), look.services, caller)
    abandon_job(job=job, services=look.services, caller=caller, asked=asked, by=look.visitor.actor)
    fate = "go into new batches" if asked.requests == "again" else "are dead letters"
    return f"The batch is given up; its requests {fate}."


PAGE = Page(path="/batches", title="Batches", menu="Batches", template="batches.html", read=read)
BATCH = Page(
    path="/batches/{batch_id}",
    title="Batch",
    template="batch.html",
    read=read_one,
    verbs=(
        Verb(
            path="/batches/{batch_id}/unpark", needs=Power.OPERATE, do=_unpark, operators_only=True
        ),
        Verb(
            path="/batches/{batch_id}/abandon",
            needs=Power.OPERATE,
            do=_abandon,
            operators_only=True,
        ),
    ),
)
