"""Files for OpenAI's SDK: upload in one step, list, look, read, delete."""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from service.api.auth import READ, SUBMIT, CalledBy, Caller
from service.api.dropin import files
from service.api.dropin.errors import refused
from service.api.dropin.one_step import check_there, uploaded
from service.api.dropin.openai.lines import in_openais_shape
from service.api.dropin.openai.wire import PURPOSE, file_object, page, result_file_object
from service.api.dropin.openapi import CONTENT, form
from service.api.dropin.result_files import MaybeResultFile, ResultFile
from service.api.services import Services, Uses
from service.api.streams import download
from service.api.watching import while_valid
from service.payloads.blobs import Blobs
from service.store import files as store
from service.store import uploads

MOST_LISTED = 10_000
ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
LIFETIMES = range(3600, 2_592_000 + 1)
"""Seconds that OpenAI takes for `expires_after`."""
_NUMBER = re.compile(r"[0-9]{1,7}")

router = APIRouter()


class FilesQuery(BaseModel):
    """Which files to list. `after` is the id that the last page ended with."""

    after: str | None = None
    limit: int = Field(MOST_LISTED, ge=1, le=MOST_LISTED)
    order: Literal["asc", "desc"] = "desc"
    purpose: str | None = None


@router.post(
    "/files",
    dependencies=[SUBMIT],
    openapi_extra=form(
        ["purpose", "file"],
        **{
            "purpose": f"`{PURPOSE}`",
            "file": "The file",
            ANCHOR: "`created_at`",
            SECONDS: f"After how many seconds it expires: {LIFETIMES[0]} to {LIFETIMES[-1]}",
        },
    ),
)
async def create_file(request: Request, services: Uses, caller: CalledBy) -> dict[str, Any]:
    """Store the file of a form, as it arrives."""
    file = await uploaded(request, services, caller, check=_check, told=_told)
    return file_object(file, services.settings)


def _check(name: str, value: str) -> None:
    """Raises HttpProblem for a field of a form whose value is not taken."""
    if name == "purpose" and value != PURPOSE:
        raise refused(f"purpose: only {PURPOSE!r} is served here", param=name)
    if name == ANCHOR and value != "created_at":
        raise refused(f"{name}: only 'created_at' is known", param=name)
    if name == SECONDS and not (_NUMBER.fullmatch(value) and int(value) in LIFETIMES):
        raise refused(f"{name}: from {LIFETIMES[0]:,} to {LIFETIMES[-1]:,} seconds", param=name)


def _told(fields: Mapping[str, str]) -> uploads.Told:
    check_there(fields, ["purpose"])
    if ANCHOR not in fields and SECONDS not in fields:
        return uploads.Told()
    check_there(fields, [ANCHOR, SECONDS])
    return uploads.Told(lifetime=timedelta(seconds=int(fields[SECONDS])))


@router.get("/files", dependencies=[READ])
def list_files(
    services: Uses, caller: CalledBy, asked: Annotated[FilesQuery, Query()]
) -> dict[str, Any]:
    """The caller's uploaded files. Those of results are named by their batches."""
    if asked.purpose not in {None, PURPOSE}:
        return page([], has_more=False)
    after = None
    if asked.after is not None:
        after = store.file(services.db, asked.after, caller.producer)
        if after is None:
            raise refused("after: is not the id of a file of yours", param="after")
    found = store.files(
        services.db,
        caller.producer,
        limit=asked.limit + 1,
        after=after,
        oldest_first=asked.order == "asc",
    )
    shown = [file_object(file, services.settings) for file in found[: asked.limit]]
    return page(shown, has_more=len(found) > asked.limit)


@router.get("/files/{file_id}", dependencies=[READ])
async def show_file(
    file_id: str, result_file: MaybeResultFile, services: Uses, caller: CalledBy
) -> dict[str, Any]:
    if result_file is not None:
        size = await _size(result_file, services, caller)
        return result_file_object(file_id, size, result_file.job.finished_at)
    file = await anyio.to_thread.run_sync(files.whole, file_id, services, caller)
    return file_object(file, services.settings)


@router.get(
    "/files/{file_id}/content",
    dependencies=[READ],
    response_class=Response,
    responses=CONTENT,
)
def read_file(
    request: Request, file_id: str, result_file: MaybeResultFile, services: Uses, caller: CalledBy
) -> Response:
    """The bytes as they were uploaded, or the result lines in OpenAI's shape."""
    if result_file is None:
        file = files.whole(file_id, services, caller)
        return files.read(request, files.content_of(file, services), services, caller)
    headers = {"Accept-Ranges": "none"}  # nobody knows where a line begins before it is made
    lines = _lines(result_file, services.blobs)
    answer = download(request, lines, media_type=files.MEDIA_TYPE, headers=headers)
    return while_valid(answer, services, caller)


@router.delete("/files/{file_id}", dependencies=[SUBMIT])
def delete_file(file_id: str, services: Uses, caller: CalledBy) -> dict[str, Any]:
    """Forget a file. Batches that were made of it go on."""
    files.delete(file_id, services, caller)
    return {"id": file_id, "object": "file", "deleted": True}


def _lines(file: ResultFile, blobs: Blobs) -> Iterator[bytes]:
    return in_openais_shape(file.lines(blobs), file.job.id)


async def _size(file: ResultFile, services: Services, caller: Caller) -> int:
    """The bytes of its lines in OpenAI's shape: they are made once to be counted."""
    services.downloads.check(caller.sees)
    with services.downloads.opened(caller.sees):
        lines = iterate_in_threadpool(_lines(file, services.blobs))
        return sum([len(block) async for block in lines])
