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
            yield f"Account {account.name} is paused{until}: {account.reason or 'no reason given'}"


def _lanes(lanes: list[Lane]) -> Iterator[str]:
    for lane in lanes:
        state = "paused" if lane.paused_at else lane.state
        if state != "healthy":
            yield f"Lane {lane.model} ({lane.account}, {lane.endpoint}) is {state}: {lane.next}"
