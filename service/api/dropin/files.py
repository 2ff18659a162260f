"""Uploaded files: list, look, read, delete."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.auth import READ, SUBMIT, CalledBy, Caller
from service.api.dropin.errors import not_found
from service.api.dropin.result_files import MaybeResultFile
from service.api.dropin.wire import file_object, result_file_object
from service.api.services import Services, Uses
from service.api.streams import download
from service.api.watching import while_valid
from service.payloads.results import ANSWER_BLOCK
from service.store import files as store
from service.store.models import File
from service.upkeep.files import discard

MOST_LISTED = 10_000
"""The SDK's lists have no pages."""

router = APIRouter()


@router.get("/files", dependencies=[READ])
def list_files(services: Uses, caller: CalledBy) -> dict[str, Any]:
    """The caller's files, newest first."""
    found = store.files(services.db, caller.producer, limit=MOST_LISTED)
    return {"data": [file_object(file, services.settings) for file in found]}


@router.get("/files/{file_id}", dependencies=[READ])
def show_file(
    file_id: str, result_file: MaybeResultFile, services: Uses, caller: CalledBy
) -> dict[str, Any]:
    if result_file is not None:
        size = result_file.size(services.blobs)
        return result_file_object(result_file.file, size, result_file.job.finished_at)
    return file_object(_whole(file_id, services, caller), services.settings)


@router.get("/files/{file_id}/content", dependencies=[READ])
def read_file(
    request: Request, file_id: str, result_file: MaybeResultFile, services: Uses, caller: CalledBy
) -> Response:
    """The bytes as they were uploaded, or the result lines as they came from Together."""
    if result_file is not None:
        size, blocks = result_file.size(services.blobs), result_file.content(services.blobs)
    else:
        file = _whole(file_id, services, caller)
        assert file.blob is not None
        size, blocks = file.bytes or 0, services.blobs.stream(file.blob, block=ANSWER_BLOCK)
    answer = download(
        request,
        blocks,
        media_type="application/jsonl",
        headers={"Content-Length": str(size)},
    )
    return while_valid(answer, services, caller)


@router.delete("/files/{file_id}", dependencies=[SUBMIT])
def delete_file(file_id: str, services: Uses, caller: CalledBy) -> dict[str, Any]:
    """Forget a file. Batches that were made of it go on."""
    if not store.remove(services.db, file_id, caller.producer):
        raise not_found(f"file {file_id}")
    discard(services.db, services.blobs, file_id)
    return {"id": file_id, "deleted": True}


def _whole(file_id: str, services: Services, caller: Caller) -> File:
    """A file of the caller's that was sent whole. Raises HttpProblem."""
    file = store.file(services.db, file_id, caller.producer)
    if file is None or file.blob is None:
        raise not_found(f"file {file_id}")
    return file
