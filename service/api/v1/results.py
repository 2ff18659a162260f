"""GET …/results: the results of a job as JSONL in input order, whole or in part."""

from array import array
from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.api import ranges
from service.api.auth import READ, CalledBy
from service.api.compression import Coding, acceptable, compressed
from service.api.openapi import problem
from service.api.problems import (
    BAD_RANGE,
    NO_RESULTS,
    NOT_ACCEPTABLE,
    NOT_FINISHED,
    NOT_FOUND,
    HttpProblem,
)
from service.api.services import Services, Uses
from service.api.streams import download
from service.api.v1.jobs import VisibleJob
from service.api.watching import while_valid
from service.payloads import results
from service.payloads.selection import Only, Selection, ordinals_of, selected, selected_partial
from service.rules.states import JobState
from service.store import jobs as store
from service.store.claim import final_lines
from service.store.models import Job
from service.store.requests import standing

router = APIRouter()

MEDIA_TYPE = "application/x-ndjson"
VARY = {"Vary": "Accept-Encoding"}
_LINES = {MEDIA_TYPE: {"schema": {"type": "string"}}}


class ResultsQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    partial: bool = Field(
        default=False,
        description="Return the results that are final so far, even if the job has not ended.",
    )
    only: Only | None = Field(
        default=None, description="Return only the succeeded or only the failed requests."
    )


@router.get(
    "/jobs/{job_id}/results",
    dependencies=[READ],
    response_class=StreamingResponse,
    responses={
        200: {"description": "JSONL with one line for each request", "content": _LINES},
        206: {"description": "The requested range of the results", "content": _LINES},
        304: {"description": "The results have not changed"},
        406: problem("The client accepts none of the content codings"),
        409: problem("The job has not finished, or has no results"),
        416: problem("The range lies outside the results"),
    },
)
def show_results(
    job: VisibleJob,
    services: Uses,
    caller: CalledBy,
    request: Request,
    asked: Annotated[ResultsQuery, Query()],
) -> Response:
    """Return the result lines in input order.

    Complete results have an ETag and support range requests. The answer is compressed with zstd or
    gzip if the client accepts it (`Accept-Encoding`); ranges are never compressed.
    """
    return while_valid(_results(job, services, request, asked), services, caller)


def _results(job: Job, services: Services, request: Request, asked: ResultsQuery) -> Response:
    codings = acceptable(",".join(request.headers.getlist("accept-encoding")))
    if not codings:
        raise HttpProblem(NOT_ACCEPTABLE, f"accept-encoding: accept one of {', '.join(Coding)}")
    if asked.only is not None:
        return _selected(job, services, request, codings[0], asked.only, partial=asked.partial)
    if asked.partial and job.state in {JobState.ACCEPTED, JobState.RUNNING}:
        lines = final_lines(services.db, job.id)
        return _streamed(
            request,
            results.stream_partial(services.blobs, lines),
            coding=codings[0],
            headers={"Cache-Control": "no-store", **VARY},
        )
    if job.generation:
        return _whole(job, services, request, codings)
    raise _without_results(job)


def _without_results(job: Job) -> HttpProblem:
    if job.state in {JobState.REJECTED, JobState.FAILED}:
        return HttpProblem(NO_RESULTS, f"the job is {job.state}: {job.error}", state=job.state)
    return HttpProblem(
        NOT_FINISHED,
        f"{job.pending:,} of {job.total:,} requests are pending; ask again later,"
        " or send ?partial=true",
        headers={"Retry-After": "30"},
        state=job.state,
    )


def _selected(
    job: Job, services: Services, request: Request, coding: Coding, only: Only, *, partial: bool
) -> Response:
    """Answer with the succeeded or the failed lines, without ranges: their length is unknown."""
    known = standing(services.db, job.id)
    if known is None:
        raise HttpProblem(NOT_FOUND, "there is no such job")
    headers = {"Accept-Ranges": "none", **VARY}
    under_way = known.state in {JobState.ACCEPTED, JobState.RUNNING}
    if partial and under_way:
        pending = ordinals_of(services.blobs, known.again)
        selection = Selection(only, known.failed, pending)
        return _streamed(
            request,
            selected_partial(services.blobs, known.lines, selection),
            coding=coding,
            headers={"Cache-Control": "no-store", **headers},
        )
    if under_way or not known.generation:
        # A retried job no longer knows which lines of its present results are failures.
        raise _without_results(job)
    etag = f'"{job.id}-{known.generation}-{only}{_suffix(coding)}"'
    headers |= {"ETag": etag, "Cache-Control": "private, no-cache"}
    if ranges.names(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    segments = store.segments(services.db, job.id, known.generation)
    selection = Selection(only, known.failed, array("Q"))
    return _streamed(
        request, selected(services.blobs, segments, selection), coding=coding, headers=headers
    )


def _whole(job: Job, services: Services, request: Request, codings: Sequence[Coding]) -> Response:
    wanted = request.headers.get("range")
    if wanted is not None and Coding.IDENTITY in codings:
        coding = Coding.IDENTITY  # a range counts uncompressed bytes
    else:
        coding, wanted = codings[0], None
    etag = _etag(job, coding)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", **VARY}
    for known in (etag, *(_etag(job, other) for other in Coding)):
        if ranges.names(request.headers.get("if-none-match"), known):
            return Response(status_code=304, headers={**headers, "ETag": known})
    segments = store.segments(services.db, job.id, job.generation)
    if coding is not Coding.IDENTITY:
        return _streamed(
            request, results.stream(services.blobs, segments), coding=coding, headers=headers
        )
    headers["Accept-Ranges"] = "bytes"
    total = sum(segment.bytes for segment in segments)
    if request.headers.get("if-range", etag) != etag:
        wanted = None
    try:
        span = ranges.requested(wanted, total)
    except ranges.Unsatisfiable:
        raise HttpProblem(
            BAD_RANGE,
            f"the results have {total:,} bytes",
            headers={**headers, "Content-Range": f"bytes */{total}"},
        ) from None
    if span is None:
        headers["Content-Length"] = str(total)
        return _streamed(request, results.stream(services.blobs, segments), headers=headers)
    headers["Content-Length"] = str(span.stop - span.start)
    headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{total}"
    blocks = results.stream(services.blobs, segments, start=span.start, stop=span.stop)
    return _streamed(request, blocks, status=206, headers=headers)


def _etag(job: Job, coding: Coding) -> str:
    """Return the strong ETag of one generation in one coding."""
    return f'"{job.id}-{job.generation}{_suffix(coding)}"'


def _suffix(coding: Coding) -> str:
    return "" if coding is Coding.IDENTITY else f"-{coding}"


def _streamed(
    request: Request,
    blocks: Iterator[bytes],
    *,
    status: int = 200,
    coding: Coding = Coding.IDENTITY,
    headers: dict[str, str],
) -> Response:
    if coding is not Coding.IDENTITY:
        headers = {**headers, "Content-Encoding": coding}
    packed = compressed(blocks, coding)
    return download(
        request,
        packed,
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )
