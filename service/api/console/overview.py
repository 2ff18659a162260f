"""The overview: what needs a person now, what is under way, and what was spent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from config.settings import PriceTable
from service.api.console.looking import Look, Shown
from service.api.console.pages import Page, Verb
from service.api.console.visitor import Power
from service.api.console.wording import plural
from service.api.v1.lanes import LaneView, views_of
from service.api.v1.operating import list_accounts, probe_account
from service.rules.prices import Tokens, estimate
from service.rules.states import LaneState
from service.store import usage
from service.store.engine import Database, clock
from service.store.heartbeats import heartbeats
from service.store.lane_verbs import lanes
from service.store.notices import redeliver
from service.store.overview import given_up, overview
from service.store.usage import Used

KINDS = ("worker", "scheduler", "notifier")
"""The processes without which nothing goes on. The inbox is for queue producers alone."""
ALIVE = timedelta(seconds=15)
MOST_SPENDERS = 12
MOST_NOTICES = 100
"""Those that one click sends again."""


@dataclass(frozen=True)
class Spending:
    """What was used on a day (UTC)."""

    usd: Decimal | None
    unknown_models: Sequence[str]
    succeeded: int
    dead: int


def read(look: Look) -> Shown:
    services, now = look.services, clock(look.services.db)
    found = overview(services.db, look.sees)
    today = now.date()
    used = usage.usage(
        services.db,
        since=today - timedelta(days=1),
        until=today,
        producers=[look.sees],
        by=["producer"],
    )
    return {
        "found": found,
        "lanes": _stopped_lanes(look),
        "accounts": [
            account
            for account in list_accounts(services, look.visitor.caller).data
            if account.state == "paused"
        ],
        "missing": _missing(look) if look.sees is None else [],
        "spenders": _spenders(services.db, used, found.budgets, today, services.settings.prices),
        "today": _spent([row for row in used if row.day == today], services.settings.prices),
        "yesterday": _spent([row for row in used if row.day < today], services.settings.prices),
    }


def _stopped_lanes(look: Look) -> list[LaneView]:
    """Return the lanes that admit less than they could. Their forecasts would cost too much."""
    found = [
        lane
        for lane in lanes(look.services.db)
        if lane.state is not LaneState.HEALTHY or lane.paused_at is not None
    ]
    return views_of(found, look.services, look.visitor.caller, {})


def _missing(look: Look) -> list[str]:
    """Return the kinds of processes of which none is alive."""
    now = clock(look.services.db)
    alive = {one.kind for one in heartbeats(look.services.db) if now - one.seen_at < ALIVE}
    return [kind for kind in KINDS if kind not in alive]


def _spent(rows: Sequence[Used], prices: PriceTable) -> Spending:
    cost = estimate(
        prices,
        (Tokens(row.model, row.day, row.prompt_tokens, row.completion_tokens) for row in rows),
    )
    return Spending(
        usd=cost.usd,
        unknown_models=cost.unknown_models,
        succeeded=sum(row.succeeded for row in rows),
        dead=sum(row.dead for row in rows),
    )


@dataclass(frozen=True, kw_only=True)
class Spender:
    """A producer that has used something today, or has a budget."""

    name: str
    today: Spending
    month: Spending | None
    """Since the month began; None without a budget for it."""
    usd_per_day: Decimal | None
    usd_per_month: Decimal | None
    short_reason: str | None
    """Set while nothing of it is sent, because of its budget."""


def _spenders(
    db: Database,
    used: Sequence[Used],
    budgets: Sequence[Mapping[str, Any]],
    today: date,
    prices: PriceTable,
) -> list[Spender]:
    """Return those who spent most today, and those with budgets."""
    month: Sequence[Used] = ()
    if any(row["usd_per_month"] is not None for row in budgets):
        first = today.replace(day=1)
        month = usage.usage(db, since=first, until=today, producers=[], by=["producer"])
    bounds = {row["name"]: row for row in budgets}
    names = {row.producer for row in used if row.producer and row.day == today} | set(bounds)
    found = []
    for name in names:
        own = [row for row in used if row.producer == name and row.day == today]
        bound = bounds.get(name, {})
        monthly = bound.get("usd_per_month")
        found.append(
            Spender(
                name=name,
                today=_spent(own, prices),
                month=None
                if monthly is None
                else _spent([row for row in month if row.producer == name], prices),
                usd_per_day=bound.get("usd_per_day"),
                usd_per_month=monthly,
                short_reason=bound["short_reason"] if bound.get("is_short") else None,
            )
        )
    found.sort(key=lambda one: (one.short_reason is None, -(one.today.usd or 0), one.name))
    return found[:MOST_SPENDERS]


def _send_again(look: Look, sent: Mapping[str, str]) -> str:
    """Send notices of one endpoint again that were given up."""
    db, sees = look.services.db, look.sees
    found = given_up(db, sent.get("endpoint", ""), sees, limit=MOST_NOTICES + 1)
    for job_id, notice_id in found[:MOST_NOTICES]:
        redeliver(db, job_id, notice_id, operator=look.visitor.actor if sees is None else None)
    more = " More are left." if len(found) > MOST_NOTICES else ""
    return f"{plural(len(found[:MOST_NOTICES]), 'notice')} will be sent again.{more}"


def _probe(look: Look, _sent: Mapping[str, str]) -> str:
    name = look.path["account"]
    probe_account(name, look.services, look.visitor.actor)
    return f"The account {name} is tried again now."


PAGE = Page(
    path="/",
    title="Overview",
    menu="Overview",
    template="overview.html",
    read=read,
    verbs=(
        Verb(
            path="/accounts/{account}/probe",
            needs=Power.OPERATE,
            do=_probe,
            operators_only=True,
        ),
        Verb(path="/notices/again", needs=Power.SUBMIT, do=_send_again),
    ),
)
