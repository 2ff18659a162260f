"""The accounts, and the running processes of a deployment."""

from collections.abc import Sequence
from datetime import datetime

from fastapi import APIRouter

from config import VERSION
from service.api.acting import ActedBy
from service.api.auth import ADMIN, READ, CalledBy
from service.api.openapi import problem
from service.api.problems import ACCOUNT_OPEN, NOT_FOUND, HttpProblem
from service.api.services import Uses
from service.api.v1.schemas import AccountView, Page, ProcessView, StatusView
from service.rules.errors import Conflict
from service.store import account_verbs, accounts, heartbeats
from service.store.engine import clock
from service.store.jobs import open_batches
from service.store.models import Account, Heartbeat

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
def probe_account(account: str, services: Uses, acting: ActedBy) -> AccountView:
    """End an account's pause now, as after its credit was topped up.

    Of an account that Together refuses, one batch goes as a probe; the others follow if it is
    served.
    """
    known = services.settings.account_names | {row.name for row in accounts.accounts(services.db)}
    if account not in known:
        raise HttpProblem(NOT_FOUND, "there is no such account; GET /v1/accounts lists them")
    try:
        row = account_verbs.probe(services.db, account, by=acting)
    except Conflict as error:
        raise HttpProblem(ACCOUNT_OPEN, str(error)) from None
    is_configured = services.settings.account(account) is not None
    return _account(account, row, configured=is_configured, now=clock(services.db))


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


@router.get("/status", dependencies=[ADMIN])
def show_status(services: Uses) -> StatusView:
    """Show the running processes, by their heartbeats, and the number of open batches."""
    alive = heartbeats.heartbeats(services.db)
    now = clock(services.db)
    return StatusView(
        version=VERSION,
        workers=_processes(alive, "worker", now),
        schedulers=_processes(alive, "scheduler", now),
        inboxes=_processes(alive, "inbox", now),
        notifiers=_processes(alive, "notifier", now),
        open_batches=open_batches(services.db),
    )


def _processes(alive: Sequence[Heartbeat], kind: str, now: datetime) -> list[ProcessView]:
    return [
        ProcessView(
            id=row.id,
            host=row.host,
            pid=row.pid,
            version=row.version,
            queues=row.queues,
            slots=row.slots,
            started_at=row.started_at,
            seen_at=row.seen_at,
            age_seconds=max((now - row.seen_at).total_seconds(), 0),
        )
        for row in alive
        if row.kind == kind
    ]
