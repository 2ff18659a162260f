"""The object store behind presigned URLs: takes uploads, hands out contents, knows no API keys."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from service.simulator import wire
from service.simulator.operations import Call, drain
from service.simulator.rows import FileRow
from service.simulator.simulation import Simulation

PREFIX = "/_store"
BLOCK = 256 * 1024
_SECRET = b"presigned by the simulator"


def upload_url(base: str, file_id: str, *, hops: int) -> str:
    """Where to PUT a file; `hops` redirects lie before its end."""
    return _presigned(base, file_id, "PUT", hops=str(hops))


def download_url(base: str, file_id: str, *, foreign: bool) -> str:
    """Where to GET a file; a foreign host must not be shown an API key."""
    return _presigned(base, file_id, "GET", **({"foreign": "1"} if foreign else {}))


async def put(simulation: Simulation, call: Call) -> Response:
    """PUT /_store/{id}: raw bytes with their length, and nobody's API key."""
    request, file_id = call.request, str(call.request.path_params["file_id"])
    refusal = _refusal(request, file_id, "PUT")
    if refusal is not None:
        await drain(request)
        return refusal
    hops = int(request.query_params.get("hops", "0"))
    if hops > 0:
        await drain(request)
        location = upload_url(str(request.base_url), file_id, hops=hops - 1)
        status = simulation.scenario.switches.upload_redirect_status
        return Response(status_code=status, headers={"Location": location})
    announced = request.headers.get("content-length")
    if announced is None:
        return _xml_error(411, "MissingContentLength")
    row = simulation.storage.file(file_id)
    if row is None:
        return _xml_error(404, "NoSuchUpload")
    part = simulation.storage.path(f"{file_id}.{secrets.token_hex(4)}.part")
    try:
        size = await _receive(request, part, call.stored_bytes)
        part.replace(simulation.storage.path(file_id))
    finally:
        part.unlink(missing_ok=True)
    await asyncio.to_thread(simulation.storage.store_content, file_id, size)
    return Response(status_code=200, headers={"ETag": f'"{secrets.token_hex(16)}"'})


async def get(simulation: Simulation, call: Call) -> Response:
    """GET /_store/{id}: where a redirect from the Files API leads."""
    file_id = str(call.request.path_params["file_id"])
    refusal = _refusal(call.request, file_id, "GET")
    if refusal is not None:
        return refusal
    row = simulation.storage.file(file_id)
    if row is None:
        return _xml_error(404, "NoSuchKey")
    return content(simulation, row, call.request)


def content(simulation: Simulation, row: FileRow, request: Request) -> Response:
    """A file's bytes, or the range of them that was asked for."""
    switches = simulation.scenario.switches
    path = simulation.storage.path(row.id)
    start, end, status = 0, row.bytes, 200
    headers: dict[str, str] = {}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if wanted is not None and switches.range == "honoured":
        start = int(wanted[1])
        end = min(int(wanted[2]) + 1, row.bytes) if wanted[2] else row.bytes
        if start >= end:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{row.bytes}"})
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{row.bytes}"
    if switches.content_length:
        headers["Content-Length"] = str(end - start)
    return wire.Content(_blocks(path, start, end), end - start, status, headers)


async def _blocks(path: Path, start: int, end: int) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        left = end - start
        while left > 0 and (block := file.read(min(BLOCK, left))):
            left -= len(block)
            yield block


async def _receive(request: Request, target: Path, limit: int | None) -> int:
    """Write a request's body to a file, or its first `limit` bytes. Returns how many."""
    size = 0
    with target.open("wb") as out:
        async for block in request.stream():
            size += out.write(block if limit is None else block[: max(0, limit - size)])
    return size


def _refusal(request: Request, file_id: str, method: str) -> Response | None:
    keyless = method == "PUT" or "foreign" in request.query_params
    if keyless and "authorization" in request.headers:
        return _xml_error(400, "InvalidArgument: Only one auth mechanism allowed")
    if request.query_params.get("X-Amz-Signature") != _signature(file_id, method):
        return _xml_error(403, "SignatureDoesNotMatch")
    return None


def _presigned(base: str, file_id: str, method: str, **query: str) -> str:
    signed = {"X-Amz-Expires": "3600", "X-Amz-Signature": _signature(file_id, method), **query}
    return f"{base.rstrip('/')}{PREFIX}/{file_id}?{urlencode(signed)}"


def _signature(file_id: str, method: str) -> str:
    return sha256(_SECRET + f"{method}{file_id}".encode()).hexdigest()


def _xml_error(status: int, code: str) -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code></Error>'
    return Response(body, status, media_type="application/xml")
