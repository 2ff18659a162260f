"""Who is calling: what Together's command line asks before anything else."""

from typing import Any

from fastapi import APIRouter

from service.api.auth import READ, CalledBy

router = APIRouter()


@router.get("/v3/whoami", dependencies=[READ])
async def show_identity(caller: CalledBy) -> dict[str, Any]:
    """A producer stands in for an organization and for its one project."""
    return {
        "type": "project_api_key",
        "api_key": {"id": caller.credential},
        "organization": {"id": caller.producer, "name": caller.producer},
        "project": {"id": caller.producer, "name": caller.producer, "slug": caller.producer},
    }
