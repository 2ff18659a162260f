"""Lanes: a list of all, and their verbs."""

from collections.abc import Mapping

from service.api.console.looking import Look, Shown
from service.api.console.pages import Page, Verb
from service.api.console.visitor import Power
from service.api.v1.lanes import list_lanes, pause_lane, probe_lane, resume_lane


def read(look: Look) -> Shown:
    return {"lanes": list_lanes(look.services, look.visitor.caller).data}


def _verb(name: str, does: object, told: str) -> Verb:
    def do(look: Look, _sent: Mapping[str, str]) -> str:
        assert callable(does)
        lane = does(look.path["lane_id"], look.services, look.visitor.actor)
        return f"{told} {lane.model}."

    return Verb(path=f"/lanes/{{lane_id}}/{name}", needs=Power.OPERATE, do=do, operators_only=True)


PAGE = Page(
    path="/lanes",
    title="Lanes",
    menu="Lanes",
    template="lanes.html",
    read=read,
    verbs=(
        _verb("pause", pause_lane, "Paused"),
        _verb("resume", resume_lane, "Resumed"),
        _verb("probe", probe_lane, "Asked for a probe of"),
    ),
)
