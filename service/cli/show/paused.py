"""What is paused or unwell, said below the lists that it explains."""

from collections.abc import Iterator

from service.cli.api import Api
from service.cli.documents import Account, Lane
from service.cli.screen import clean, local, notes


def tell_paused(api: Api) -> None:
    """Say on standard error which accounts are paused and which lanes are not open."""
    accounts = [document.value for document in api.accounts()]
    lanes = [document.value for document in api.lanes()]
    for line in (*_accounts(accounts), *_lanes(lanes)):
        notes().line(clean(line))


def _accounts(accounts: list[Account]) -> Iterator[str]:
    for account in accounts:
        if account.state == "paused":
            until = f" until {local(account.paused_until)}" if account.paused_until else ""
            why = reason_of(account) or "no reason given"
            yield f"Account {account.name} is paused{until}: {why}"


def reason_of(account: Account) -> str | None:
    """Return why an account is paused: in an operator's words, or in Together's, or both."""
    found = [] if account.reason is None else [account.reason]
    if account.paused_at is not None:
        found.insert(0, f"an operator has paused it ({account.pause_reason})")
    return "; ".join(found) or None


def _lanes(lanes: list[Lane]) -> Iterator[str]:
    for lane in lanes:
        state = "paused" if lane.paused_at else lane.state
        if state != "healthy":
            by = f" by {lane.paused_by}" if lane.paused_by and lane.paused_at else ""
            why = f" ({lane.evidence.text})" if lane.evidence else ""
            name = f"{lane.model} ({lane.account}, {lane.endpoint})"
            yield f"Lane {name} is {state}{by}: {lane.next}{why}"
