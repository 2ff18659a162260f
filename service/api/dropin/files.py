"""Files, whoever's words are spoken: find them, read them, delete them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response

from config.settings import Settings
from service.api import ranges
from service.api.auth import Caller
from service.api.dropin.errors import not_found
from service.api.problems import BAD_RANGE, HttpProblem
from service.api.services import Services
from service.api.streams import download
from service.api.watching import while_valid
from service.payloads.results import ANSWER_BLOCK
from service.store import files as store
from service.store.models import File
from service.upkeep.files import discard

MEDIA_TYPE = "application/jsonl"


@dataclass(frozen=True)
class Content:
    """The bytes of a file. `blocks` gives those from the first number up to the second."""

    file_id: str
    size: int
    blocks: Callable[[int, int], Iterator[bytes]]


def whole(file_id: str, services: Services, caller: Caller) -> File:
    """A file of the caller's that was sent whole. Raises HttpProblem."""
    file = store.file(services.db, file_id, caller.producer)
    if file is None or file.blob is None:
        raise not_found(f"file {file_id}")
    return file


def content_of(file: File, services: Services) -> Content:
    blob, size = file.blob, file.bytes or 0
    assert blob is not None
    return Content(
        file.id,
        size,
        lambda start, stop: services.blobs.stream(blob, start, stop - start, block=ANSWER_BLOCK),
    )


def read(request: Request, content: Content, services: Services, caller: Caller) -> Response:
    """The content, or the range of it that is asked for. Raises HttpProblem."""
    etag = f'"{content.file_id}"'  # what a file id stands for never changes
    headers = {"Accept-Ranges": "bytes", "ETag": etag}
    wanted = request.headers.get("range")
    if request.headers.get("if-range", etag) != etag:
        wanted = None
    try:
        span = ranges.requested(wanted, content.size)
    except ranges.Unsatisfiable:
        raise HttpProblem(
            BAD_RANGE,
            f"file {content.file_id} has {content.size:,} bytes",
            headers={"Content-Range": f"bytes */{content.size}"},
        ) from None
    status = 200
    if span is None:
        span = ranges.Span(0, content.size)
    else:
        status = 206
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{content.size}"
    headers["Content-Length"] = str(span.stop - span.start)
    blocks = content.blocks(span.start, span.stop)
    answer = download(request, blocks, status_code=status, media_type=MEDIA_TYPE, headers=headers)
    return while_valid(answer, services, caller)


def delete(file_id: str, services: Services, caller: Caller) -> None:
    """Forget a file. Batches that were made of it go on. Raises HttpProblem."""
    if not store.remove(services.db, file_id, caller.producer):
        raise not_found(f"file {file_id}")
    discard(services.db, services.blobs, file_id)


def expires_at(file: File, settings: Settings) -> datetime:
    """When a file goes: after `HAULIER_FILE_DAYS`, or earlier where that was asked for."""
    after_all = file.renewed_at + timedelta(days=settings.file_days)
    return after_all if file.expires_at is None else min(after_all, file.expires_at)
