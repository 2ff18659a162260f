"""Health checks and metrics: the only endpoints that need no token."""

from fastapi import APIRouter
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from service.api.openapi import problem
from service.api.problems import NOT_MIGRATED, RETRY_AFTER, HttpProblem
from service.api.services import Uses
from service.api.v1.schemas import HealthView
from service.store.revisions import is_migrated

router = APIRouter()

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})


@router.get("/healthz")
async def healthz() -> HealthView:
    """Answer 200 while this process runs."""
    return HealthView()


@router.get(
    "/readyz",
    responses={503: problem("The service cannot take work; `detail` says what is missing")},
)
def readyz(services: Uses) -> HealthView:
    """Answer 200 if the service can take work: Postgres answers and has the right schema."""
    if not is_migrated(services.db):
        raise HttpProblem(
            NOT_MIGRATED,
            "the database does not have this version's schema; run `haulier migrate`",
            headers=RETRY_AFTER,
        )
    return HealthView()


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request, services: Uses) -> Response:
    """Return the metrics in Prometheus' text format. They name no producer."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(services.metrics.registry), media_type=media_type)
