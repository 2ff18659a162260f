"""One call of the API from its arrival to its answer: who calls, what goes wrong, the log.

A handler knows nothing of this; it does its work and returns a response. What befalls the call is
decided here, around it: before the work (nothing was done) or after it (all of it was).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.simulator import wire
from service.simulator.calls import LoggedCall
from service.simulator.connection import (
    Dropped,
    cut_out,
    drop,
    ending_after,
    trickling_in,
    trickling_out,
)
from service.simulator.faults import HeldCall
from service.simulator.scenario import AnyFault, Cut, Hold, Lost, Operation, Slow, Status, Switches
from service.simulator.simulation import Simulation

DEFAULT_AGENTS = ("python-httpx", "python-urllib", "python-requests", "aiohttp", "go-http-client")
UPLOADS = frozenset({"put", "upload"})
BILLED_OPERATIONS = frozenset({"create_file", "upload", "create"})
"""What an account without credit cannot do."""
BATCH_OPERATIONS = frozenset({"create", "retrieve", "list", "cancel"})


@dataclass(frozen=True)
class Call:
    """An admitted call, as its handler sees it."""

    request: Request
    account: str
    key: str
    fault: AnyFault | None

    @property
    def stored_bytes(self) -> int | None:
        """After how many bytes an upload is cut off unnoticed, if it is."""
        if not isinstance(self.fault, Cut) or not self.fault.clean:
            return None
        return _upload_limit(self.fault, self.request)


Handler = Callable[[Simulation, Call], Awaitable[Response]]
Targets = Callable[[Simulation, Request], Awaitable[tuple[str, ...]]]


async def path_targets(_simulation: Simulation, request: Request) -> tuple[str, ...]:
    """The ids in the path."""
    return tuple(str(value) for value in request.path_params.values())


async def drain(request: Request) -> None:
    """Read what a client still sends, so that it gets to see the answer, or its loss."""
    async for _ in request.stream():
        pass


class OperationApp:
    """The ASGI application of one operation."""

    def __init__(
        self,
        simulation: Simulation,
        operation: Operation,
        handler: Handler,
        *,
        targets: Targets = path_targets,
        keyless: bool = False,
    ) -> None:
        """`keyless`: the object store, which knows no API keys."""
        self._simulation = simulation
        self._operation = operation
        self._handler = handler
        self._targets = targets
        self._keyless = keyless

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        at = wire.now()
        fault: AnyFault | None = None
        account, targets, status = "", tuple[str, ...](), None
        try:
            request = Request(scope, receive)
            key = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
            account = wire.account_of(key) if key else ""
            refusal = self._refusal(request, key, account, at)
            if refusal is not None:
                status = refusal.status_code
                if self._operation in UPLOADS:
                    await drain(request)
                await refusal(scope, receive, send)
                return
            targets = await self._targets(self._simulation, request)
            fault = self._simulation.faults.strike(self._operation, key, targets)
            call = Call(self._shaped(request, fault), account, key, fault)
            response = await self._answer(call, targets)
            status = response.status_code
            await _shaped_response(response, fault, self._operation)(scope, receive, send)
        except Dropped:
            status = None
            await drop(scope, receive, flush=isinstance(fault, Cut))
        except ClientDisconnect:
            status = None
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            self._simulation.calls.add(
                LoggedCall(
                    operation=self._operation,
                    at=at,
                    account=account,
                    targets=targets,
                    status=status,
                    fault=None if fault is None else type(fault).__name__.lower(),
                )
            )

    def _refusal(self, request: Request, key: str, account: str, at: float) -> Response | None:
        """The answer to a call that nobody may make."""
        if self._keyless:
            return None
        scenario = self._simulation.scenario
        switches = scenario.switches
        agent = request.headers.get("user-agent", "").lower()
        if switches.refuse_default_agents and (not agent or agent.startswith(DEFAULT_AGENTS)):
            return wire.html(403, wire.CLOUDFLARE)
        refused = scenario.keys.get(key) if key else 401
        if refused == 402 and self._operation not in BILLED_OPERATIONS:
            refused = None
        if refused is not None:
            return self._error(refused, _REFUSALS[refused])
        limit = switches.requests_per_second
        if limit is not None and self._simulation.calls.too_fast(account, at=at, per_second=limit):
            return self._error(429, "Rate limit exceeded", wire.rate_limit_headers(switches, 1))
        return None

    def _error(self, status: int, message: str, headers: dict[str, str] | None = None) -> Response:
        if self._operation in BATCH_OPERATIONS:
            return wire.string_error(status, message, headers)
        return wire.object_error(status, message, headers=headers)

    async def _answer(self, call: Call, targets: tuple[str, ...]) -> Response:
        """Do the work, with what befalls the call before or after it."""
        before = await self._befall(call, targets, "before")
        if before is not None:
            return before
        response = await self._handler(self._simulation, call)
        return await self._befall(call, targets, "after") or response

    async def _befall(
        self, call: Call, targets: tuple[str, ...], moment: Literal["before", "after"]
    ) -> Response | None:
        """Let the fault happen if this is its moment. Returns an answer to give instead."""
        fault = call.fault
        if fault is None or isinstance(fault, Cut):
            return None
        if (moment == "after") != fault.after_commit:
            return None
        if moment == "before" and isinstance(fault, Lost | Status) and self._operation in UPLOADS:
            await drain(call.request)
        match fault:
            case Lost():
                raise Dropped
            case Status():
                return _faulty_answer(fault, self._simulation.scenario.switches)
            case Slow():
                await asyncio.sleep(fault.seconds)
            case Hold():
                held = HeldCall(
                    operation=self._operation,
                    after_commit=fault.after_commit,
                    targets=targets,
                    account=call.account,
                )
                if not await self._simulation.holds.wait(held):
                    raise Dropped
        return None

    def _shaped(self, request: Request, fault: AnyFault | None) -> Request:
        """An upload whose body trickles or breaks off; any other request as it is."""
        receive = request.receive
        if self._operation not in UPLOADS:
            return request
        if isinstance(fault, Cut) and not fault.clean:
            receive = ending_after(receive, _upload_limit(fault, request))
        elif isinstance(fault, Slow) and fault.bytes_per_second is not None:
            receive = trickling_in(receive, fault.bytes_per_second)
        return Request(request.scope, receive)


_REFUSALS = {
    401: "Invalid API key provided. You can find your API key at https://api.together.ai/settings/api-keys.",
    402: "You have reached your spending limit. Add credits to continue.",
    403: "You do not have permission to perform this action.",
}


def _faulty_answer(fault: Status, switches: Switches) -> Response:
    headers = dict(fault.headers)
    if fault.status == 429 and not headers:
        headers = wire.rate_limit_headers(switches, fault.reset_seconds)
    match fault.body:
        case "string":
            return wire.string_error(fault.status, fault.message, headers)
        case "object":
            return wire.object_error(fault.status, fault.message, headers=headers)
        case "html":
            page = wire.BAD_GATEWAY.format(status=fault.status, message=fault.message)
            return wire.html(fault.status, page, headers)
        case "empty":
            return Response(status_code=fault.status, headers=headers)


def _upload_limit(cut: Cut, request: Request) -> int:
    return _cut_length(cut, int(request.headers.get("content-length", "0")))


def _cut_length(cut: Cut, size: int) -> int:
    return cut.bytes if cut.bytes is not None else int(size * (cut.fraction or 0))


def _shaped_response(response: Response, fault: AnyFault | None, operation: str) -> ASGIApp:
    """The answer as it is sent: trickling, or cut. For uploads it was the request's turn."""
    if operation in UPLOADS:
        return response
    if isinstance(fault, Cut):
        size = response.size if isinstance(response, wire.Content) else len(response.body)
        return cut_out(response, limit=_cut_length(fault, size), clean=fault.clean)
    if isinstance(fault, Slow) and fault.bytes_per_second is not None:
        return trickling_out(response, fault.bytes_per_second)
    return response
