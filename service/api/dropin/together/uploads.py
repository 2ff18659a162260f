"""Uploads. The SDK announces a file, sends its bytes to where that answer points, and then asks for
it. Others send all in one step."""

import hashlib
import re
import secrets
from collections.abc import Mapping
from functools import partial
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api import body, turns
from service.api.auth import SUBMIT, CalledBy
from service.api.dropin.arriving import check_size, kept
from service.api.dropin.errors import error, not_found, refused
from service.api.dropin.ids import PURPOSE
from service.api.dropin.one_step import check_name, check_there, uploaded
from service.api.dropin.openapi import form
from service.api.dropin.together.wire import file_object
from service.api.forwarded import public_url
from service.api.memory import STREAM
from service.api.problems import over_quota
from service.api.services import Services, Uses
from service.api.watching import as_long_as
from service.rules.credentials import digest, same
from service.rules.errors import OverQuota
from service.store import files
from service.store import uploads as store
from service.store.models import File

router = APIRouter()
open_router = APIRouter()

REQUIRED = ("purpose", "file_name", "file_type")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@router.post(
    "/files",
    dependencies=[SUBMIT],
    status_code=302,
    response_class=Response,
    openapi_extra=form(
        REQUIRED,
        purpose=f"`{PURPOSE}`",
        file_name="The name of the file",
        file_type="`jsonl`",
        checksum="The SHA-256 of its bytes, in lower case hex",
    ),
)
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
    async with request.form(max_files=0, max_fields=20, max_part_size=4096) as sent:
        fields = {name: value for name, value in sent.items() if isinstance(value, str) and value}
    check_there(fields, REQUIRED)
    for name, value in fields.items():
        check(name, value)
    return fields


def check(name: str, value: str) -> None:
    """Raises HttpProblem for a field of a form whose value is not taken."""
    match name:
        case "purpose" if value != PURPOSE:
            raise refused(f"purpose: only {PURPOSE!r} is served here", param=name)
        case "file_type" if value != "jsonl":
            raise refused("file_type: a batch is made of a .jsonl file", param=name)
        case "file_name":
            check_name(value, param=name)
        case "checksum" if not _SHA256.fullmatch(value):
            raise refused("checksum: is not a SHA-256 in lower case hex", param=name)


@router.post(
    "/files/upload",
    dependencies=[SUBMIT],
    openapi_extra=form(
        ["purpose", "file"],
        purpose=f"`{PURPOSE}`",
        file="The file",
        file_name="The name of the file, where it is not the one that comes with it",
        file_type="`jsonl`",
        checksum="The SHA-256 of its bytes, in lower case hex",
    ),
)
async def upload(request: Request, services: Uses, caller: CalledBy) -> dict[str, Any]:
    """A file in one step. The same content again is another file, as at Together."""
    file = await uploaded(request, services, caller, check=check, told=_told)
    return file_object(file, services.settings)


def _told(fields: Mapping[str, str]) -> store.Told:
    check_there(fields, ["purpose"])
    return store.Told(filename=fields.get("file_name"), sha256=fields.get("checksum"))


@open_router.put("/files/{file_id}/bytes")
async def receive(file_id: str, request: Request, services: Uses, key: str = "") -> Response:
    """The bytes, in constant memory. A part of a file is no file: it is deleted at once."""
    turns.leave()  # no gate does so, if there is a token although none is needed
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
    announced = request.headers.get("content-length")
    stored = await kept(
        services,
        file,
        body.blocks(request),
        announced=None if announced is None else int(announced),
        most=most,
    )
    if stored is store.Stored.GONE:
        raise not_found(f"file {file.id}")
    if stored is store.Stored.OTHER:
        return _other_content(file.id)
    return Response(status_code=200)


def _other_content(file_id: str) -> Response:
    return error(409, f"file {file_id} has other content already", code="conflict")


async def _sha256(request: Request, file: File, most: int | None) -> str:
    """What the bytes hash to. Raises HttpProblem."""
    sha256, size = hashlib.sha256(), 0
    async for block in body.blocks(request):
        size += len(block)
        check_size(file, size, most)
        sha256.update(block)
    return sha256.hexdigest()


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
