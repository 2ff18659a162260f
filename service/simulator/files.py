"""The Files API: both ways to upload, list, look, delete."""

import asyncio
import secrets
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response

from service.simulator import objects, wire
from service.simulator.operations import Call
from service.simulator.rows import FileRow
from service.simulator.simulation import Simulation

BLOCK = 1 << 20


async def form_targets(_simulation: Simulation, request: Request) -> tuple[str, ...]:
    """The announced file name, for faults that aim at it."""
    form = await request.form()
    name = form.get("file_name")
    return (name,) if isinstance(name, str) else ()


async def create_file(simulation: Simulation, call: Call) -> Response:
    """POST /v1/files: announce a file and be sent to the object store with it."""
    form = await call.request.form()
    missing = [name for name in ("purpose", "file_name", "file_type") if not _text(form, name)]
    if missing:
        return wire.object_error(400, f"Missing required field: {missing[0]}")
    checksum = _text(form, "checksum")
    if checksum and simulation.scenario.switches.checksum_conflict:
        known = simulation.storage.file_with_checksum(call.account, checksum)
        if known is not None:
            return wire.answer({"file_id": known}, 409)
    row = _new_file(call.account, form, checksum=checksum)
    await asyncio.to_thread(simulation.storage.add_file, row)
    hops = simulation.scenario.switches.upload_redirects
    location = objects.upload_url(str(call.request.base_url), row.id, hops=hops)
    return Response(status_code=302, headers={"Location": location, "X-Together-File-Id": row.id})


async def preprocess(simulation: Simulation, call: Call) -> Response:
    """POST /v1/files/{id}/preprocess: the content is there."""
    row = _asked_for(simulation, call)
    if row is None:
        return _not_found(call)
    if row.state != "stored":
        return wire.object_error(400, f"File {row.id} has not been uploaded")
    return wire.answer(wire.file_object(row, simulation.scenario.switches))


async def upload(simulation: Simulation, call: Call) -> Response:
    """POST /v1/files/upload: the file itself in a multipart body."""
    async with call.request.form() as form:
        content = form.get("file")
        if not isinstance(content, UploadFile):
            return wire.object_error(400, "Missing required field: file")
        if not _text(form, "purpose"):
            return wire.object_error(400, "Missing required field: purpose")
        row = _new_file(call.account, form, name=content.filename)
        part = simulation.storage.path(f"{row.id}.{secrets.token_hex(4)}.part")
        size = await asyncio.to_thread(_copy, content.file, part, call.stored_bytes)
    part.replace(simulation.storage.path(row.id))
    await asyncio.to_thread(simulation.storage.add_file, row)
    await asyncio.to_thread(simulation.storage.store_content, row.id, size)
    stored = simulation.storage.file(row.id) or row
    return wire.answer(wire.file_object(stored, simulation.scenario.switches))


async def list_all(simulation: Simulation, call: Call) -> Response:
    """GET /v1/files."""
    switches = simulation.scenario.switches
    rows = simulation.storage.files(call.account)
    return wire.answer({"data": [wire.file_object(row, switches) for row in rows]})


async def retrieve(simulation: Simulation, call: Call) -> Response:
    """GET /v1/files/{id}."""
    row = _asked_for(simulation, call)
    if row is None:
        return _not_found(call)
    return wire.answer(wire.file_object(row, simulation.scenario.switches))


async def delete(simulation: Simulation, call: Call) -> Response:
    """DELETE /v1/files/{id}."""
    row = _asked_for(simulation, call)
    if row is None:
        return _not_found(call)
    await asyncio.to_thread(simulation.storage.delete_file, row.id)
    return wire.answer({"id": row.id, "object": "file", "deleted": True})  # 1.x insists on `object`


async def content(simulation: Simulation, call: Call) -> Response:
    """GET /v1/files/{id}/content: the bytes, or a redirect to the object store."""
    row = _asked_for(simulation, call)
    if row is None or row.state != "stored":
        return _not_found(call)
    where = simulation.scenario.switches.content_redirect
    if where == "none":
        return objects.content(simulation, row, call.request)
    here = str(call.request.base_url)
    base = here if where == "path" else _another_name(here)
    location = objects.download_url(base, row.id, foreign=base != here)
    return Response(status_code=302, headers={"Location": location})


def _another_name(base: str) -> str:
    """The simulator under a host name that is another one to clients."""
    if "127.0.0.1" in base:
        return base.replace("127.0.0.1", "localhost")
    return base.replace("localhost", "127.0.0.1")


def _asked_for(simulation: Simulation, call: Call) -> FileRow | None:
    file_id = str(call.request.path_params["file_id"])
    return simulation.storage.file(file_id, account=call.account)


def _not_found(call: Call) -> Response:
    return wire.object_error(404, f"File not found: {call.request.path_params['file_id']}")


def _new_file(
    account: str, form: FormData, *, checksum: str | None = None, name: str | None = None
) -> FileRow:
    return FileRow(
        id=f"file-{uuid4()}",
        account=account,
        filename=_text(form, "file_name") or name or "upload.jsonl",
        purpose=_text(form, "purpose") or "",
        file_type=_text(form, "file_type") or "jsonl",
        role="input",
        bytes=0,
        checksum=checksum,
        created_at=wire.now(),
        state="pending",
    )


def _text(form: FormData, name: str) -> str | None:
    value = form.get(name)
    return value if isinstance(value, str) and value else None


def _copy(source: BinaryIO, target: Path, limit: int | None) -> int:
    """Copy a file, or its first `limit` bytes. Returns how many."""
    size = 0
    with target.open("wb") as out:
        while block := source.read(BLOCK if limit is None else min(BLOCK, limit - size)):
            size += out.write(block)
    return size
