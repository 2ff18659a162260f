"""The accounts, and what an operator does to them."""

from datetime import datetime

from fastapi import APIRouter

from service.api.acting import ActedBy
from service.api.auth import ADMIN, READ, CalledBy
from service.api.openapi import problem
from service.api.problems import ACCOUNT_OPEN, NOT_FOUND, HttpProblem
from service.api.services import Uses
from service.api.v1.rehearsing import DryRun, PreviewView, for_verb, preview
from service.api.v1.schemas import AccountView, Page
from service.rules.errors import Conflict
from service.store import account_verbs, accounts
from service.store.engine import clock
from service.store.models import Account

router = APIRouter()


@router.get("/accounts", dependencies=[READ])
def list_accounts(services: Uses, caller: CalledBy) -> Page[AccountView]:
    """List the accounts that the caller may use, by name. API keys are never shown."""
    rows = {row.name: row for row in accounts.accounts(services.db)}
    known = services.settings.account_names | set(rows)
    names = sorted(known if caller.sees is None else known & caller.permissions.accounts)
    now = clock(services.db)
    configured = {name for name in names if services.settings.account(name) is not None}
    return Page(
        data=[
            _account(name, rows.get(name), configured=name in configured, now=now) for name in names
        ]
    )


@router.post(
    "/accounts/{account}/probe",
    dependencies=[ADMIN],
    responses={409: problem("The account is not paused")},
)
def probe_account(
    account: str, services: Uses, acting: ActedBy, dry_run: DryRun = False
) -> AccountView | PreviewView:
    """End an account's pause now, as after its credit was topped up.

    Of an account that Together refuses, one batch goes as a probe; the others follow if it is
    served.
    """
    known = services.settings.account_names | {row.name for row in accounts.accounts(services.db)}
    if account not in known:
        raise HttpProblem(NOT_FOUND, "there is no such account; GET /v1/accounts lists them")
    db = for_verb(services.db, dry_run=dry_run)
    try:
        row = account_verbs.probe(db, account, by=acting)
    except Conflict as error:
        raise HttpProblem(ACCOUNT_OPEN, str(error)) from None
    is_configured = services.settings.account(account) is not None
    shown = _account(account, row, configured=is_configured, now=clock(services.db))
    return preview(db) or shown


def _account(name: str, row: Account | None, *, configured: bool, now: datetime) -> AccountView:
    paused = row is not None and row.paused_until is not None and row.paused_until > now
    if row is None or not paused:
        return AccountView(
            name=name, state="open", configured=configured, paused_until=None, reason=None
        )
    return AccountView(
        name=name,
        state="paused",
        configured=configured,
        paused_until=row.paused_until,
        reason=row.reason,
    )
