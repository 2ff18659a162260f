"""Errors: what failed for good lately, by cause, and which cause is new."""

from datetime import datetime, timedelta

from service.api.console.looking import Look, Shown
from service.api.console.pages import Page
from service.store.causes import Cause, causes_since
from service.store.engine import clock

SPANS = {"1h": timedelta(hours=1), "1d": timedelta(days=1), "7d": timedelta(days=7)}
MOST = 100


def read(look: Look) -> Shown:
    asked = look.query.get("span", "1d")
    length = SPANS.get(asked, SPANS["1d"])
    now = clock(look.services.db)
    found = _within(look, now - length, now)
    before = {cause.id for cause in _within(look, now - 2 * length, now - length)}
    return {
        "causes": [(cause, cause.id not in before) for cause in found],
        "span": asked if asked in SPANS else "1d",
        "spans": list(SPANS),
    }


def _within(look: Look, since: datetime, until: datetime) -> tuple[Cause, ...]:
    return causes_since(
        look.services.db, since=since, until=until, producer=look.sees, limit=MOST
    ).causes


PAGE = Page(
    path="/errors",
    title="Errors",
    menu="Errors",
    template="errors.html",
    read=read,
    is_live=False,
)
