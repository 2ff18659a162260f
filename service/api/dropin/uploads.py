"""Uploads as the SDK does them: a file is announced, its bytes are sent to where that answer
points, and then it is asked for."""

import hashlib
import re
import secrets
from contextlib import ExitStack
from functools import partial
from typing import Any
from uuid import uuid4

import anyio.to_thread
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api import body
from service.api.auth import SUBMIT, CalledBy
from service.api.dropin.errors import error, not_found, refused
from service.api.dropin.wire import PURPOSE, file_object
from service.api.problems import TOO_LARGE, HttpProblem
from service.api.services import Services, Uses
from service.rules.credentials import digest, same
from service.rules.names import trouble_with
from service.store import files as store
from service.store.models import File

router = APIRouter()
open_router = APIRouter()

_NAME_LENGTH = 255
# What a text column does not take. Half of a surrogate pair comes in UTF-7.
_NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@router.post("/files", dependencies=[SUBMIT])
async def announce(request: Request, services: Uses, caller: CalledBy) -> Response:
    """Announce a file, and be told where to send its bytes. Known content is not sent again."""
    fields = await _fields(request)
    sha256 = fields.get("checksum")
    if sha256 is not None:
        known = await anyio.to_thread.run_sync(
            store.with_content, services.db, caller.producer, sha256
        )
        if known is not None:
            return JSONResponse(
                {"file_id": known}, status_code=409, headers={"x-should-retry": "false"}
            )
    file_id, secret = f"file-{uuid4()}", secrets.token_urlsafe(32)
    await anyio.to_thread.run_sync(
        partial(
            store.announce,
            services.db,
            file_id=file_id,
            producer=caller.producer,
            filename=fields["file_name"],
            purpose=fields["purpose"],
            digest=digest(secret),
            sha256=sha256,
        )
    )
    url = request.url.replace(path=f"{request.url.path}/{file_id}/bytes", query=f"key={secret}")
    headers = {
        "Location": str(url),
        "X-Together-File-Id": file_id,
        "Cache-Control": "no-store",  # the URL holds a secret
    }
    return Response(status_code=302, headers=headers)


async def _fields(request: Request) -> dict[str, str]:
    """The fields of the form. Raises HttpProblem."""
    async with request.form(max_files=0, max_fields=20, max_part_size=4096) as form:
        fields = {name: value for name, value in form.items() if isinstance(value, str) and value}
    for name in ("purpose", "file_name", "file_type"):
        if name not in fields:
            raise refused(f"missing required field: {name}", param=name)
    if fields["purpose"] != PURPOSE:
        raise refused(f"purpose: only {PURPOSE!r} is served here", param="purpose")
    if fields["file_type"] != "jsonl":
        raise refused("file_type: a batch is made of a .jsonl file", param="file_type")
    if len(fields["file_name"]) > _NAME_LENGTH or _NO_TEXT.search(fields["file_name"]):
        raise refused("file_name: is too long, or is not text", param="file_name")
    if trouble := trouble_with(fields["file_name"]):
        raise refused(f"file_name: {trouble}", param="file_name")
    if not _SHA256.fullmatch(fields.get("checksum", "0" * 64)):
        raise refused("checksum: is not a SHA-256 in lower case hex", param="checksum")
    return fields


@open_router.put("/files/{file_id}/bytes")
async def receive(file_id: str, request: Request, services: Uses, key: str = "") -> Response:
    """The bytes, in constant memory. A part of a file is no file."""
    found = await anyio.to_thread.run_sync(store.expected, services.db, file_id)
    if found is None or not same(digest(key), found[0].upload_digest):
        raise not_found(f"file {file_id}")
    content = await _stored(request, services, *found)
    if found[0].announced_sha256 not in {None, content.sha256}:
        raise refused("the bytes do not have the checksum that was announced", param="checksum")
    if not await anyio.to_thread.run_sync(store.store, services.db, file_id, content):
        return error(409, f"file {file_id} has other content already", code="conflict")
    return Response(status_code=200)


async def _stored(
    request: Request, services: Services, file: File, most: int | None
) -> store.Content:
    """What was sent, in a blob of its own. Raises HttpProblem."""
    in_thread = partial(anyio.to_thread.run_sync, limiter=services.intake)
    sha256, lines, last = hashlib.sha256(), 0, b"\n"
    with ExitStack() as stack:
        name = f"files/{file.id}/{uuid4()}"
        writer = stack.enter_context(services.blobs.writer(name))
        async for block in body.blocks(request):
            if most is not None and writer.size + len(block) > most:
                raise HttpProblem(TOO_LARGE, f"file {file.id} may have {most:,} bytes")
            sha256.update(block)
            lines += block.count(b"\n")
            last = block[-1:]
            await in_thread(writer.write, block)
        size = writer.size
        done = stack.pop_all()
    await in_thread(done.close)
    return store.Content(
        blob=name, sha256=sha256.hexdigest(), bytes=size, lines=lines + (last != b"\n")
    )


@router.post("/files/{file_id}/preprocess", dependencies=[SUBMIT])
def finish(file_id: str, services: Uses, caller: CalledBy) -> dict[str, Any]:
    """The SDK says that it has sent everything."""
    found = store.file(services.db, file_id, caller.producer)
    if found is None:
        raise not_found(f"file {file_id}")
    if found.blob is None:
        raise refused(f"file {file_id} has not been uploaded")
    return file_object(found)


@router.post("/files/multipart/initiate", dependencies=[SUBMIT])
def in_parts() -> Response:
    """What the SDK does with files of more than 5 GiB."""
    raise refused(
        "files of more than 5 GiB are not taken in parts; send the lines to POST /v1/jobs,"
        " or cut the file in two"
    )
