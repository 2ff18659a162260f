"""The control endpoint: change the scenario, release held calls, read the books and the log."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.simulator import books, scenario, wire
from service.simulator.outages import Outage
from service.simulator.scenario import AnyFault, BatchRule, LineRule, Switches
from service.simulator.simulation import Simulation

PREFIX = "/_control"

_T = TypeVar("_T")


class Rules(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rules to append to those that are followed already."""

    lines: tuple[LineRule, ...] = ()
    batches: tuple[BatchRule, ...] = ()
    outages: tuple[Outage, ...] = ()


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Switches and keys to change; all else stays."""

    switches: dict[str, Any] = {}
    keys: dict[str, Literal[401, 402, 403]] | None = None


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which held calls to let go, and whether they are answered or dropped."""

    operation: str | None = None
    answered: bool = True


def routes(simulation: Simulation) -> list[Route]:
    """All control routes. They need no key and are no API calls: no fault befalls them."""
    table: list[tuple[str, str, Callable[[Simulation, Request], Awaitable[Response]]]] = [
        ("GET", "scenario", _get_scenario),
        ("PUT", "scenario", _put_scenario),
        ("PATCH", "scenario", _change_scenario),
        ("POST", "faults", _add_faults),
        ("DELETE", "faults", _clear_faults),
        ("POST", "rules", _add_rules),
        ("GET", "held", _held),
        ("POST", "release", _release),
        ("GET", "books", _books),
        ("GET", "requests", _requests),
        ("POST", "reset", _reset),
    ]
    return [
        Route(f"{PREFIX}/{name}", partial(_guarded, simulation, endpoint), methods=[method])
        for method, name, endpoint in table
    ]


async def _guarded(
    simulation: Simulation,
    endpoint: Callable[[Simulation, Request], Awaitable[Response]],
    request: Request,
) -> Response:
    """Answer what cannot be read with 422 and the reason."""
    try:
        return await endpoint(simulation, request)
    except (msgspec.MsgspecError, scenario.ScenarioError) as error:
        return wire.answer({"error": str(error)}, 422)


async def _body(request: Request, kind: type[_T]) -> _T:
    return msgspec.json.decode(await request.body() or b"{}", type=kind)


async def _get_scenario(simulation: Simulation, _request: Request) -> Response:
    return wire.answer(simulation.scenario)


async def _put_scenario(simulation: Simulation, request: Request) -> Response:
    simulation.play(scenario.parse(await request.body(), source="scenario"))
    return wire.answer(simulation.scenario)


async def _change_scenario(simulation: Simulation, request: Request) -> Response:
    change = await _body(request, Change)
    current = simulation.scenario
    switches = {**msgspec.to_builtins(current.switches), **change.switches}
    simulation.follow(
        msgspec.structs.replace(
            current,
            switches=msgspec.convert(switches, Switches),
            keys=current.keys if change.keys is None else change.keys,
        )
    )
    return wire.answer(simulation.scenario)


async def _add_faults(simulation: Simulation, request: Request) -> Response:
    content = await request.body()
    if content.lstrip().startswith(b"["):
        faults = msgspec.json.decode(content, type=list[AnyFault])
    else:
        faults = [msgspec.json.decode(content, type=AnyFault)]
    simulation.faults.arm(faults)
    return wire.answer({"added": len(faults)})


async def _clear_faults(simulation: Simulation, _request: Request) -> Response:
    simulation.faults.clear()
    return Response(status_code=204)


async def _add_rules(simulation: Simulation, request: Request) -> Response:
    rules = await _body(request, Rules)
    current = simulation.scenario
    simulation.follow(
        msgspec.structs.replace(
            current,
            lines=current.lines + rules.lines,
            batches=current.batches + rules.batches,
            outages=current.outages + rules.outages,
        )
    )
    return wire.answer(simulation.scenario)


async def _held(simulation: Simulation, _request: Request) -> Response:
    return wire.answer(simulation.holds.held)


async def _release(simulation: Simulation, request: Request) -> Response:
    wanted = await _body(request, Release)
    released = simulation.holds.release(wanted.operation, answered=wanted.answered)
    return wire.answer({"released": released})


async def _books(simulation: Simulation, request: Request) -> Response:
    lines = request.query_params.get("lines") != "false"
    drawn_up = await asyncio.to_thread(partial(books.read, simulation.storage, lines=lines))
    return wire.answer(drawn_up)


async def _requests(simulation: Simulation, request: Request) -> Response:
    operation = request.query_params.get("operation")
    calls = [call for call in simulation.calls.last if operation in (None, call.operation)]
    return wire.answer({"counts": dict(simulation.calls.counts), "calls": calls})


async def _reset(simulation: Simulation, _request: Request) -> Response:
    await simulation.reset()
    return Response(status_code=204)
