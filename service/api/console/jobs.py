"""Jobs: the list, with its search, and one job with its verbs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from service.api import cursors
from service.api.console.looking import Look, Shown
from service.api.console.pages import Page
from service.api.console.search import MOST, read_search, suggest, words_of
from service.rules.states import JobState
from service.store import search as store
from service.store.forecasts import shown

PAGE_ROWS = 50


def read(look: Look) -> Shown:
    db, text = look.services.db, look.query.get("q", "")
    asked = read_search(text)
    place = look.query.get("before")
    after = cursors.read(place, cursors.AfterJob) if place else None
    wanted = asked.asked(store.known_models(db) if asked.model else ())
    if look.sees is None:
        found = store.search(db, wanted, before=_place(after), limit=PAGE_ROWS)
    elif wanted.producer in {None, look.sees}:
        own = replace(wanted, producer=look.sees)
        found = store.search(db, own, before=_place(after), limit=PAGE_ROWS)
    else:
        found = store.Found([], None)  # others' jobs do not exist
    return {
        "jobs": found.jobs,
        "models": store.models_of(db, [job.id for job in found.jobs]),
        "forecasts": shown(db, found.jobs),
        "q": text,
        "older": cursors.written(cursors.AfterJob(*found.goes_on)) if found.goes_on else None,
        "looked_to": found.looked_to,
        "is_first": place is None,
        "problems": asked.problems,
    }


def _place(after: cursors.AfterJob | None) -> store.Place | None:
    return None if after is None else (after.created_at, after.id)


def read_suggestions(look: Look) -> Shown:
    db, text = look.services.db, look.query.get("q", "")
    word = (words_of(text) or [""])[-1]
    name, _, begun = word.partition(":")
    values: dict[str, Sequence[str]] = {"state": list(JobState), "waiting": list(store.Waiting)}
    marks: Sequence[Mapping[str, Any]] = ()
    match name:
        case "producer" if look.sees is None:
            values["producer"] = store.known_producers(db, begun, MOST)
        case "model":
            values["model"] = store.known_models(db)
        case "account":
            values["account"] = sorted(
                look.services.settings.account_names
                if look.sees is None
                else look.visitor.caller.permissions.accounts
            )
        case "is":
            values["is"] = ["call"]
        case _ if name.startswith("metadata."):
            marks = store.known_marks(db, look.sees, newest=200)
    return {"suggestions": suggest(text, values, marks)}


PAGE = Page(path="/jobs", title="Jobs", menu="Jobs", template="jobs.html", read=read)
SUGGESTIONS = Page(
    path="/jobs/suggestions",
    title="Suggestions",
    template="suggestions.html",
    read=read_suggestions,
    is_live=False,
    is_whole=False,
)
