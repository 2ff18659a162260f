"""Accounts: how each stands with Together, and its verbs."""

from collections.abc import Mapping

from service.api.console.looking import Look, Shown
from service.api.console.pages import Page, Verb
from service.api.console.visitor import Power
from service.api.v1.operating import Pause, list_accounts, pause_account, resume_account


def read(look: Look) -> Shown:
    return {"accounts": list_accounts(look.services, look.visitor.caller).data}


def _pause(look: Look, sent: Mapping[str, str]) -> str:
    asked = Pause(reason=sent.get("reason", "").strip() or "paused in the console")
    pause_account(look.path["account"], asked, look.services, look.visitor.actor)
    return "Nothing is sent to the account until it is resumed."


def _resume(look: Look, _sent: Mapping[str, str]) -> str:
    resume_account(look.path["account"], look.services, look.visitor.actor)
    return "The account goes on."


PAGE = Page(
    path="/accounts",
    title="Accounts",
    menu="Accounts",
    template="accounts.html",
    read=read,
    operators_only=True,
    verbs=(
        Verb(path="/accounts/{account}/pause", needs=Power.OPERATE, do=_pause, operators_only=True),
        Verb(
            path="/accounts/{account}/resume", needs=Power.OPERATE, do=_resume, operators_only=True
        ),
    ),
)
