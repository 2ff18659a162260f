"""For load balancers, supervisors and monitoring; the only endpoints that need no token."""

from fastapi import APIRouter
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from service.api.openapi import problem
from service.api.problems import NOT_MIGRATED, RETRY_AFTER, HttpProblem
from service.api.services import Uses
from service.api.v1.schemas import HealthView
from service.store.schema import is_migrated

router = APIRouter()

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


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


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request, services: Uses) -> Response:
    """How it stands, in Prometheus' text format. Numbers only; it names nobody."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(services.metrics.registry), media_type=media_type)
