"""What Together's answers look like: file objects, jobs, both shapes of errors, HTML."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import NAMESPACE_URL, uuid4, uuid5

import msgspec
from starlette.responses import Response, StreamingResponse

from service.simulator.rows import TERMINAL, BatchRow, FileRow
from service.simulator.scenario import Switches

DEADLINE = timedelta(hours=24)
ENDPOINTS = ("/v1/chat/completions", "/v1/audio/transcriptions", "/v1/audio/translations")
UNSET = msgspec.UNSET

CLOUDFLARE = """<!DOCTYPE html>
<html><head><title>Attention Required! | Cloudflare</title></head>
<body><h1>Sorry, you have been blocked</h1></body></html>
"""
BAD_GATEWAY = """<!DOCTYPE html>
<html><head><title>{status}</title></head>
<body><h1>Error {status}</h1><p>{message}</p></body></html>
"""


class FileObject(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A file as the API shows it."""

    id: str
    object: str
    created_at: int
    filename: str
    bytes: int | None
    purpose: str
    FileType: str
    LineCount: int
    Processed: bool
    processing_status: str | msgspec.UnsetType = UNSET


class Job(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A batch as the API shows it."""

    id: str
    user_id: str
    project_id: str
    input_file_id: str
    file_size_bytes: int
    endpoint: str
    status: str
    progress: float | str
    created_at: str | int
    job_deadline: str
    model_id: str | msgspec.UnsetType = UNSET
    output_file_id: str | msgspec.UnsetType = UNSET
    error_file_id: str | msgspec.UnsetType = UNSET
    error: str | msgspec.UnsetType = UNSET
    completed_at: str | msgspec.UnsetType = UNSET


class Content(StreamingResponse):
    """A file's bytes, or a range of them: `size` many."""

    def __init__(
        self, blocks: AsyncIterator[bytes], size: int, status: int, headers: dict[str, str]
    ) -> None:
        """`headers` need not tell the size."""
        super().__init__(blocks, status, headers, "application/octet-stream")
        self.size = size


def account_of(key: str) -> str:
    """The account behind an API key. The key itself is stored nowhere."""
    return f"acct-{sha256(key.encode()).hexdigest()[:12]}"


def project_of(account: str) -> str:
    """The one project of an account."""
    return f"proj-{account.removeprefix('acct-')}"


def file_object(row: FileRow, switches: Switches) -> FileObject:
    """Show a file."""
    status = switches.processing_status if row.state == "stored" else "PENDING"
    return FileObject(
        id=row.id,
        object="file",
        created_at=int(row.created_at),
        filename=row.filename,
        bytes=None if switches.odd_types else row.bytes,
        purpose=row.purpose,
        FileType=row.file_type,
        LineCount=0,
        Processed=row.state == "stored",
        processing_status=UNSET if status is None else status,
    )


def job(row: BatchRow, switches: Switches, *, now: float, files_ready: bool = True) -> Job:
    """Show a batch as it is at an instant. `files_ready` False leaves its file ids out."""
    return Job(
        id=row.id,
        user_id=str(uuid5(NAMESPACE_URL, row.account)),
        project_id=project_of(row.account),
        input_file_id=row.input_file_id,
        file_size_bytes=row.file_size_bytes,
        endpoint=row.endpoint,
        status=_shown_status(row, switches, now=now),
        progress=_odd(_shown_progress(row, switches, now=now), switches),
        created_at=int(row.created_at) if switches.odd_types else _rfc3339(row.created_at),
        job_deadline=_rfc3339(row.created_at + DEADLINE.total_seconds()),
        model_id=row.model_id or UNSET,
        output_file_id=(files_ready and row.output_file_id) or UNSET,
        error_file_id=(files_ready and row.error_file_id) or UNSET,
        error=row.error or UNSET,
        completed_at=UNSET if row.completed_at is None else _rfc3339(row.completed_at),
    )


def _odd(number: float, switches: Switches) -> float | str:
    return str(number) if switches.odd_types else number


def share_done(row: BatchRow, *, now: float) -> float:
    """Which part of a batch in progress is done, in [0, 1]."""
    if row.started_at is None:
        return 0.0
    reached = row.rule.share if row.rule.hang or row.rule.outcome in ("expire", "cancel") else 1.0
    if row.seconds <= 0:
        return reached
    return reached * min(max((now - row.started_at) / row.seconds, 0.0), 1.0)


def _shown_status(row: BatchRow, switches: Switches, *, now: float) -> str:
    status: str = row.status
    if (
        row.rule.shows is not None
        and status == "IN_PROGRESS"
        and row.started_at is not None
        and now < row.started_at + row.rule.shows_seconds
    ):
        status = row.rule.shows
    status = switches.status_names.get(status, status)
    return status.lower() if switches.lower_case_statuses else status


def _shown_progress(row: BatchRow, switches: Switches, *, now: float) -> float:
    if row.status == "COMPLETED":
        return 100.0
    if row.status in TERMINAL or row.status == "CANCELING":
        return round(100 * row.share, 2)
    if row.rule.progress is not None:
        return row.rule.progress
    if switches.progress_early and row.started_at is not None:
        return 100.0
    return min(round(100 * share_done(row, now=now), 2), 99.0)


def _rfc3339(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(
        msgspec.json.encode(value), status, headers=headers, media_type="application/json"
    )


def string_error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """An error as batches have it."""
    return answer({"error": message, "request_id": str(uuid4())}, status, headers)


def object_error(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    headers: dict[str, str] | None = None,
) -> Response:
    """An error as files have it."""
    error = {"message": message, "type": kind, "param": None, "code": None}
    return answer({"error": error}, status, headers)


def html(status: int, content: str, headers: dict[str, str] | None = None) -> Response:
    """An error of whatever stands in front of the API."""
    return Response(content, status, headers=headers, media_type="text/html")


def rate_limit_headers(switches: Switches, seconds: float) -> dict[str, str]:
    """How a 429 says when to come back, by the switch."""
    value = f"{seconds:g}"
    match switches.rate_limit_header:
        case "x-ratelimit-reset":
            return {"x-ratelimit-reset": value}
        case "retry-after":
            return {"Retry-After": value}
        case "both":
            return {"x-ratelimit-reset": value, "Retry-After": value}
        case "none":
            return {}


def now() -> float:
    """The wall clock; batches go by it so that they survive a restart."""
    return time.time()
