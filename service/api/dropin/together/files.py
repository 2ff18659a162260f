"""Uploaded files: list, look, read, delete."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.auth import READ, SUBMIT, CalledBy
from service.api.dropin import files
from service.api.dropin.openapi import CONTENT
from service.api.dropin.result_files import MaybeResultFile
from service.api.dropin.together.wire import file_object, result_file_object
from service.api.services import Uses
from service.store import files as store

MOST_LISTED = 10_000
"""The SDK's lists have no pages."""

router = APIRouter()


@router.get("/files", dependencies=[READ])
def list_files(services: Uses, caller: CalledBy) -> dict[str, Any]:
    """The caller's files, newest first."""
    found = store.files(services.db, caller.producer, limit=MOST_LISTED)
    return {"object": "list", "data": [file_object(file, services.settings) for file in found]}


@router.get("/files/{file_id}", dependencies=[READ])
def show_file(
    file_id: str, result_file: MaybeResultFile, services: Uses, caller: CalledBy
) -> dict[str, Any]:
    if result_file is not None:
        size = result_file.size(services.blobs)
        return result_file_object(result_file.file, size, result_file.job.finished_at)
    return file_object(files.whole(file_id, services, caller), services.settings)


@router.get(
    "/files/{file_id}/content",
    dependencies=[READ],
    response_class=Response,
    responses=CONTENT,
)
def read_file(
    request: Request, file_id: str, result_file: MaybeResultFile, services: Uses, caller: CalledBy
) -> Response:
    """The bytes as they were uploaded, or the result lines as they came from Together."""
    lines = (
        files.content_of(files.whole(file_id, services, caller), services)
        if result_file is None
        else result_file.content(services.blobs)
    )
    return files.read(request, lines, services, caller)


@router.delete("/files/{file_id}", dependencies=[SUBMIT])
def delete_file(file_id: str, services: Uses, caller: CalledBy) -> dict[str, Any]:
    """Forget a file. Batches that were made of it go on."""
    files.delete(file_id, services, caller)
    return {"id": file_id, "object": "file", "deleted": True}
