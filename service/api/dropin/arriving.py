"""The bytes of a file arrive: they are stored whole, or not at all."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from functools import partial
from uuid import uuid4

import anyio
import anyio.to_thread
import structlog

from service.api.dropin.errors import not_found, refused
from service.api.problems import TOO_LARGE, HttpProblem, over_quota
from service.api.services import Services
from service.api.watching import as_long_as
from service.payloads.blobs import STORAGE_ERRORS
from service.rules.crashpoints import CrashPoint, reached
from service.rules.errors import OverQuota
from service.store import uploads as store
from service.store.models import File

log = structlog.get_logger()

AHEAD = 8 << 20
"""Bytes that are reserved at a time where the client does not say how many it will send."""


async def kept(
    services: Services,
    file: File,
    blocks: AsyncIterator[bytes],
    *,
    announced: int | None,
    most: int | None,
    told: Callable[[], store.Told] = store.Told,
) -> store.Stored:
    """Store what arrives, in constant memory. A part of a file is no file: it is deleted at once.

    `announced` is how many bytes will come, where that is known, `most` how many may. `told` is
    asked once all are here, and raises HttpProblem if they shall not be kept. Raises HttpProblem.
    """
    upload = _Upload(services, file, most)
    is_ours = True
    try:
        await upload.begin(announced)
        takes_bytes = partial(store.see, services.db, upload.id, file.id)
        async with as_long_as(takes_bytes, services, otherwise=not_found(f"file {file.id}")):
            content = await upload.written(blocks)
        also = told()
        if {file.announced_sha256, also.sha256} - {None, content.sha256}:
            raise refused("the bytes do not have the checksum that was announced", param="checksum")
        reached(CrashPoint.FILE_WRITTEN)
        is_ours = False  # if no answer comes, they may be the file's
        stored = await anyio.to_thread.run_sync(
            store.store, services.db, upload.id, file.id, content, also
        )
        reached(CrashPoint.FILE_STORED)
        is_ours = stored is not store.Stored.NEW
    except OverQuota as over:
        raise over_quota(over) from None
    finally:
        if is_ours:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(upload.drop)
    return stored


def check_size(file: File, size: int, most: int | None) -> None:
    """Raises HttpProblem if a file may not have so many bytes."""
    if most is not None and size > most:
        raise HttpProblem(TOO_LARGE, f"file {file.id} may have {most:,} bytes")


class _Upload:
    """Bytes that arrive for a file, in a blob of their own."""

    def __init__(self, services: Services, file: File, most: int | None) -> None:
        self.id = uuid4()
        self._services = services
        self._file = file
        self._most = most
        self._name = f"files/{file.id}/{self.id}"
        self._reserved = 0

    async def begin(self, announced: int | None) -> None:
        """Reserve room for what is announced, or for a first piece. Raises HttpProblem."""
        if announced is None:
            await self._reserve(least=0, most=AHEAD)
            return
        check_size(self._file, announced, self._most)
        await self._reserve(least=announced, most=announced)

    async def written(self, blocks: AsyncIterator[bytes]) -> store.Content:
        """Write what is sent. Raises HttpProblem, OverQuota."""
        in_thread = partial(anyio.to_thread.run_sync, limiter=self._services.intake)
        sha256, lines, last = hashlib.sha256(), 0, b"\n"
        with ExitStack() as stack:
            writer = stack.enter_context(self._services.blobs.writer(self._name))
            async for block in blocks:
                size = writer.size + len(block)
                check_size(self._file, size, self._most)
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
