"""Who a key belongs to: what Together's command line asks before anything else."""

from starlette.responses import Response

from service.simulator import wire
from service.simulator.operations import Call
from service.simulator.simulation import Simulation


async def whoami(_simulation: Simulation, call: Call) -> Response:
    """GET /v3/whoami, for the key of a project."""
    name = call.account.removeprefix("acct-")
    return wire.answer(
        {
            "type": "project_api_key",
            "api_key": {"id": f"key-{name}"},
            "organization": {"id": f"org-{name}", "name": "Simulated"},
            "project": {"id": wire.project_of(call.account), "name": "default", "slug": "default"},
        }
    )
