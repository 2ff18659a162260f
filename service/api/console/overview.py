"""The overview: what needs a person now, what is under way, and what was spent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from config.settings import PriceTable
from service.api.console.looking import Look, Shown
from service.api.console.pages import Page, Verb
from service.api.console.visitor import Power
from service.api.v1.lanes import list_lanes
from service.api.v1.operating import list_accounts, probe_account
from service.rules.prices import Tokens, estimate
from service.store import usage
from service.store.engine import clock
from service.store.heartbeats import heartbeats
from service.store.overview import overview
from service.store.usage import Used

KINDS = ("worker", "scheduler", "notifier")
"""The processes without which nothing goes on. The inbox is for queue producers alone."""
ALIVE = timedelta(seconds=15)


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
    lanes = list_lanes(services, look.visitor.caller).data
    return {
        "found": found,
        "lanes": [lane for lane in lanes if lane.state != "healthy" or lane.paused_at is not None],
        "accounts": [
            account
            for account in list_accounts(services, look.visitor.caller).data
            if account.state == "paused"
        ],
        "missing": _missing(look) if look.sees is None else [],
        "today": _spent([row for row in used if row.day == today], services.settings.prices),
        "yesterday": _spent([row for row in used if row.day < today], services.settings.prices),
    }


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


def _probe(look: Look, _sent: Mapping[str, str]) -> str:
    name: Any = look.path["account"]
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
    ),
)
