"""The accounts, and what an operator does to them."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.api.acting import ActedBy
from service.api.auth import ADMIN, READ, CalledBy
from service.api.body import SMALL_BODY
from service.api.openapi import problem
from service.api.problems import ACCOUNT_OPEN, ACCOUNT_STOPPED, NOT_FOUND, HttpProblem
from service.api.services import Services, Uses
from service.api.v1.rehearsing import DryRun, PreviewView, for_verb, preview
from service.api.v1.schemas import AccountView, Page
from service.rules.errors import Conflict
from service.store import account_verbs, accounts
from service.store.audit import Actor
from service.store.engine import Database, clock
from service.store.models import Account

router = APIRouter(max_body_size=SMALL_BODY)


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
    responses={409: problem("Together has not paused the account, or an operator has")},
)
def probe_account(
    account: str, services: Uses, acting: ActedBy, dry_run: DryRun = False
) -> AccountView | PreviewView:
    """End the pause that follows from Together's refusals now, as after credit was topped up.

    Of an account that Together refuses, one batch goes as a probe; the others follow if it is
    served.
    """
    return _done(account_verbs.probe, account, services, acting, dry_run=dry_run)


class Pause(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: Annotated[
        str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00]*$")
    ] = Field(description="Why; shown with the account and to whoever asks why a job waits.")


@router.post("/accounts/{account}/pause", dependencies=[ADMIN])
def pause_account(
    account: str, asked: Pause, services: Uses, acting: ActedBy, dry_run: DryRun = False
) -> AccountView | PreviewView:
    """Let nothing be sent to an account until it is resumed. What Together holds is fetched."""

    def pause(db: Database, name: str, *, by: Actor) -> Account:
        return account_verbs.pause(db, name, asked.reason, by=by)

    return _done(pause, account, services, acting, dry_run=dry_run)


@router.post(
    "/accounts/{account}/resume",
    dependencies=[ADMIN],
    responses={409: problem("No operator has paused the account")},
)
def resume_account(
    account: str, services: Uses, acting: ActedBy, dry_run: DryRun = False
) -> AccountView | PreviewView:
    """End an operator's pause of an account. What Together refuses stays paused until a probe."""
    return _done(account_verbs.resume, account, services, acting, dry_run=dry_run)


def _done(
    verb: Callable[..., Account], account: str, services: Services, by: Actor, *, dry_run: bool
) -> AccountView | PreviewView:
    known = services.settings.account_names | {row.name for row in accounts.accounts(services.db)}
    if account not in known:
        raise HttpProblem(NOT_FOUND, "there is no such account; GET /v1/accounts lists them")
    db = for_verb(services.db, dry_run=dry_run)
    try:
        row = verb(db, account, by=by)
    except account_verbs.StoppedByOperator as error:
        raise HttpProblem(ACCOUNT_STOPPED, str(error)) from None
    except Conflict as error:
        raise HttpProblem(ACCOUNT_OPEN, str(error)) from None
    is_configured = services.settings.account(account) is not None
    shown = _account(account, row, configured=is_configured, now=clock(services.db))
    return preview(db) or shown


def _account(name: str, row: Account | None, *, configured: bool, now: datetime) -> AccountView:
    refused = row is not None and row.paused_until is not None and row.paused_until > now
    stopped = row is not None and row.paused_at is not None
    return AccountView(
        name=name,
        state="paused" if refused or stopped else "open",
        configured=configured,
        paused_until=row.paused_until if row is not None and refused else None,
        reason=row.reason if row is not None and refused else None,
        paused_at=None if row is None else row.paused_at,
        pause_reason=None if row is None else row.pause_reason,
    )
