"""Processes: what runs, in which version, and draining."""

from collections import Counter
from collections.abc import Mapping

from config import VERSION
from service.api.console.looking import Look, Shown
from service.api.console.pages import Page, Verb
from service.api.console.visitor import Power
from service.api.v1.processes import drain_process, resume_process, show_status


def read(look: Look) -> Shown:
    status = show_status(look.services)
    processes = [
        (kind, process)
        for kind, group in (
            ("worker", status.workers),
            ("scheduler", status.schedulers),
            ("inbox", status.inboxes),
            ("notifier", status.notifiers),
        )
        for process in group
    ]
    return {
        "processes": processes,
        "versions": sorted(Counter(one.version for _, one in processes).items()),
        "this_version": VERSION,
    }


def _drain(look: Look, _sent: Mapping[str, str]) -> str:
    drain_process(look.path["process_id"], look.services, look.visitor.actor)
    return "The process finishes what it has and takes nothing new."


def _resume(look: Look, _sent: Mapping[str, str]) -> str:
    resume_process(look.path["process_id"], look.services, look.visitor.actor)
    return "The process takes work again."


PAGE = Page(
    path="/processes",
    title="Processes",
    menu="Processes",
    template="processes.html",
    read=read,
    operators_only=True,
    verbs=(
        Verb(
            path="/processes/{process_id}/drain",
            needs=Power.OPERATE,
            do=_drain,
            operators_only=True,
        ),
        Verb(
            path="/processes/{process_id}/resume",
            needs=Power.OPERATE,
            do=_resume,
            operators_only=True,
        ),
    ),
)
