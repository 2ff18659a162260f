"""Notices that nobody tries to deliver any more, and those that are still to be delivered."""

from service.api.console.looking import Look, Shown
from service.api.console.pages import Page
from service.store.outbox import outbox

ROWS = 100


def read(look: Look) -> Shown:
    db, sees = look.services.db, look.sees
    return {
        "parked": outbox(db, producer=sees, parked=True, limit=ROWS),
        "pending": outbox(db, producer=sees, parked=False, limit=ROWS),
        "rows": ROWS,
    }


PAGE = Page(path="/notices", title="Notices", menu="Notices", template="notices.html", read=read)
