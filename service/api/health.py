"""For load balancers and supervisors; the only endpoints that need no token."""

from fastapi import APIRouter

from service.api.openapi import problem
from service.api.problems import NOT_MIGRATED, RETRY_AFTER, HttpProblem
from service.api.schemas import HealthView
from service.api.services import Uses
from service.store.schema import is_migrated

router = APIRouter()

OPEN_PATHS = frozenset({"/healthz", "/readyz"})


@router.get("/healthz")
async def healthz() -> HealthView:
    """Whether this process runs."""
    return HealthView()


@router.get("/readyz", responses={503: problem("What is missing, and what to do")})
def readyz(services: Uses) -> HealthView:
    """Whether it can take work: Postgres is there and has our schema."""
    if not is_migrated(services.db):
        raise HttpProblem(
            NOT_MIGRATED,
            "the database does not have this version's schema; run `haulier migrate`",
            headers=RETRY_AFTER,
        )
    return HealthView()
