"""Uploads as the SDK does them: a file is announced, its bytes are sent to where that answer
points, and then it is asked for."""

import hashlib
import re
import secrets
from contextlib import ExitStack
from functools import partial
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api import body
from service.api.auth import SUBMIT, CalledBy
from service.api.dropin.errors import error, not_found, refused
from service.api.dropin.wire import PURPOSE, file_object
from service.api.forwarded import public_url
from service.api.memory import STREAM
from service.api.problems import TOO_LARGE, HttpProblem, over_quota
from service.api.services import Services, Uses
from service.api.watching import as_long_as
from service.payloads.blobs import STORAGE_ERRORS
from service.rules.crashpoints import CrashPoint, reached
from service.rules.credentials import digest, same
from service.rules.errors import OverQuota
from service.rules.names import trouble_with
from service.store import files
from service.store import uploads as store
from service.store.models import File

log = structlog.get_logger()

router = APIRouter()
open_router = APIRouter()

AHEAD = 8 << 20
"""Bytes that are reserved at a time where the client does not say how many it will send."""

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
            files.announced_again, services.db, caller.producer, sha256
        )
        if known is not None:
            return JSONResponse(
                {"file_id": known}, status_code=409, headers={"x-should-retry": "false"}
            )
    file_id, secret = f"file-{uuid4()}", secrets.token_urlsafe(32)
    announced = partial(
        files.announce,
        services.db,
        file_id=file_id,
        producer=caller.producer,
        filename=fields["file_name"],
        purpose=fields["purpose"],
        digest=digest(secret),
        sha256=sha256,
        credential=caller.token_id,
    )
    try:
        await anyio.to_thread.run_sync(announced)
    except OverQuota as over:
        raise over_quota(over) from None
    url = public_url(request, services.settings, f"{request.url.path}/{file_id}/bytes")
    headers = {
        "Location": f"{url}?key={secret}",
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
    """The bytes, in constant memory. A part of a file is no file: it is deleted at once."""
    found = await anyio.to_thread.run_sync(store.expected, services.db, file_id)
    if found is None or not same(digest(key), found[0].upload_digest):
        raise not_found(f"file {file_id}")
    structlog.contextvars.bind_contextvars(producer=found[0].producer)
    with services.memory.body_of(found[0].producer) as holding:
        holding.arrived(STREAM)  # at once: no gate counts what arrives here
        request.state.holding = holding
        return await _received(request, services, *found)


async def _received(request: Request, services: Services, file: File, most: int | None) -> Response:
    """Store what was sent, or compare it with what is there already. Raises HttpProblem."""
    if file.blob is not None:
        # Sent again by who did not hear of it: it is compared, not stored.
        still_taken = partial(store.takes_bytes, services.db, file.id)
        async with as_long_as(still_taken, services, otherwise=not_found(f"file {file.id}")):
            sha256 = await _sha256(request, file, most)
        return Response(status_code=200) if sha256 == file.sha256 else _other_content(file.id)
    upload = _Upload(services, file)
    is_ours = True
    try:
        await upload.begin(request, most)
        takes_bytes = partial(store.see, services.db, upload.id, file.id)
        async with as_long_as(takes_bytes, services, otherwise=not_found(f"file {file.id}")):
            content = await upload.written(request, most)
        if file.announced_sha256 not in {None, content.sha256}:
            raise refused("the bytes do not have the checksum that was announced", param="checksum")
        reached(CrashPoint.FILE_WRITTEN)
        is_ours = False  # if no answer comes, they may be the file's
        stored = await anyio.to_thread.run_sync(
            store.store, services.db, upload.id, file.id, content
        )
        reached(CrashPoint.FILE_STORED)
        is_ours = stored is not store.Stored.NEW
    except OverQuota as over:
        raise over_quota(over) from None
    finally:
        if is_ours:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(upload.drop)
    if stored is store.Stored.GONE:
        raise not_found(f"file {file.id}")
    if stored is store.Stored.OTHER:
        return _other_content(file.id)
    return Response(status_code=200)


def _other_content(file_id: str) -> Response:
    return error(409, f"file {file_id} has other content already", code="conflict")


def _check(file: File, size: int, most: int | None) -> None:
    if most is not None and size > most:
        raise HttpProblem(TOO_LARGE, f"file {file.id} may have {most:,} bytes")


async def _sha256(request: Request, file: File, most: int | None) -> str:
    """What the bytes hash to. Raises HttpProblem."""
    sha256, size = hashlib.sha256(), 0
    async for block in body.blocks(request):
        size += len(block)
        _check(file, size, most)
        sha256.update(block)
    return sha256.hexdigest()


class _Upload:
    """Bytes that arrive for a file, in a blob of their own."""

    def __init__(self, services: Services, file: File) -> None:
        self.id = uuid4()
        self._services = services
        self._file = file
        self._name = f"files/{file.id}/{self.id}"
        self._reserved = 0

    async def begin(self, request: Request, most: int | None) -> None:
        """Reserve room for what is announced, or for a first piece. Raises HttpProblem."""
        announced = request.headers.get("content-length")
        if announced is None:
            await self._reserve(least=0, most=AHEAD)
            return
        size = int(announced)
        _check(self._file, size, most)
        await self._reserve(least=size, most=size)

    async def written(self, request: Request, most: int | None) -> store.Content:
        """Write what is sent. Raises HttpProblem, OverQuota."""
        in_thread = partial(anyio.to_thread.run_sync, limiter=self._services.intake)
        sha256, lines, last = hashlib.sha256(), 0, b"\n"
        with ExitStack() as stack:
            writer = stack.enter_context(self._services.blobs.writer(self._name))
            async for block in body.blocks(request):
                size = writer.size + len(block)
                _check(self._file, size, most)
                if size > self._reserved:
                    await self._reserve(least=size, most=size + AHEAD)
                sha256.update(block)
                lines += block.count(b"\n")
                last = block[-1:]
                await in_thread(writer.write, block)
            size = writer.size
            done = stack.pop_all()
        await in_thread(done.close)
        return store.Content(
            blob=self._name, sha256=sha256.hexdigest(), bytes=size, lines=lines + (last != b"\n")
        )

    async def _reserve(self, *, least: int, most: int) -> None:
        reserve = partial(
            store.reserve, self._services.db, self.id, self._file, least=least, most=most
        )
        granted = await anyio.to_thread.run_sync(reserve)
        if granted is None:
            raise not_found(f"file {self._file.id}")
        self._reserved = granted

    def drop(self) -> None:
        """Delete what was written, and give back its room."""
        try:
            self._services.blobs.delete([self._name])
        except (OSError, *STORAGE_ERRORS) as error:
            log.warning("upload_stays", blob=self._name, reason=str(error))  # for the sweep
            return
        store.release(self._services.db, self.id)


@router.post("/files/{file_id}/preprocess", dependencies=[SUBMIT])
def finish(file_id: str, services: Uses, caller: CalledBy) -> dict[str, Any]:
    """The SDK says that it has sent everything."""
    found = files.file(services.db, file_id, caller.producer)
    if found is None:
        raise not_found(f"file {file_id}")
    if found.blob is None:
        raise refused(f"file {file_id} has not been uploaded")
    return file_object(found, services.settings)


@router.post("/files/multipart/initiate", dependencies=[SUBMIT])
def in_parts() -> Response:
    """What the SDK does with files of more than 5 GiB."""
    raise refused(
        "files of more than 5 GiB are not taken in parts; send the lines to POST /v1/jobs,"
        " or cut the file in two"
    )
