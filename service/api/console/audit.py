"""The audit log: what operators did."""

from service.api import cursors
from service.api.console.looking import Look, Shown
from service.api.console.pages import Page
from service.store import audit as store

ROWS = 100
LONGEST = 1000


def read(look: Look) -> Shown:
    asked = {
        name: look.query.get(name, "").strip()[:LONGEST].replace("\x00", "")
        for name in ("actor", "verb", "object")
    }
    place = look.query.get("before")
    found = store.lines(
        look.services.db,
        actor=asked["actor"] or None,
        verb=asked["verb"] or None,
        object=asked["object"] or None,
        before=cursors.read(place, cursors.AfterAudit).id if place else None,
        limit=ROWS + 1,
    )
    rows = found[:ROWS]
    more = len(found) > ROWS
    return {
        "lines": rows,
        "asked": asked,
        "older": cursors.written(cursors.AfterAudit(rows[-1].id)) if more else None,
        "is_first": place is None,
    }


PAGE = Page(
    path="/audit",
    title="Audit log",
    menu="Audit",
    template="audit.html",
    read=read,
    operators_only=True,
)
