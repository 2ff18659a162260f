"""Uploads in one step: a form with the file in it."""

import re
import secrets
from collections.abc import Callable, Collection, Mapping
from functools import partial
from uuid import uuid4

import anyio
import anyio.to_thread
from starlette.requests import Request

from service.api.auth import Caller
from service.api.dropin.arriving import kept
from service.api.dropin.errors import not_found, refused
from service.api.dropin.forms import FormWithFile
from service.api.dropin.ids import PURPOSE
from service.api.problems import over_quota
from service.api.services import Services
from service.rules.credentials import digest
from service.rules.errors import OverQuota
from service.rules.names import trouble_with
from service.store import files
from service.store import uploads as store
from service.store.models import File

_NAME_LENGTH = 255
# What a text column does not take. Half of a surrogate pair comes in UTF-7.
_NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")
NAMELESS = "upload.jsonl"


def check_name(name: str, *, param: str) -> None:
    """Raises HttpProblem for a name that no file may have."""
    if len(name) > _NAME_LENGTH or _NO_TEXT.search(name):
        raise refused(f"{param}: is too long, or is not text", param=param)
    if trouble := trouble_with(name):
        raise refused(f"{param}: {trouble}", param=param)


def check_there(fields: Mapping[str, str], names: Collection[str]) -> None:
    """Raises HttpProblem if a field was left out."""
    for name in names:
        if name not in fields:
            raise refused(f"missing required field: {name}", param=name)


async def uploaded(
    request: Request,
    services: Services,
    caller: Caller,
    *,
    check: Callable[[str, str], None],
    told: Callable[[Mapping[str, str]], store.Told],
) -> File:
    """The file of the form, stored as it arrives. What is refused leaves nothing behind.

    `check` is called with each field as it comes, `told` with all of them at the end: they may come
    after the file. Both raise HttpProblem for what is not taken. Raises HttpProblem.
    """
    form = FormWithFile(request, check)
    await form.begin()
    assert form.filename is not None
    check_name(form.filename, param="file")
    file_id = f"file-{uuid4()}"
    announce = partial(
        files.announce,
        services.db,
        file_id=file_id,
        producer=caller.producer,
        filename=form.filename or NAMELESS,
        purpose=PURPOSE,
        digest=digest(secrets.token_urlsafe(32)),  # nobody can send other bytes for it
        sha256=None,
        credential=caller.token_id,
    )
    try:
        await anyio.to_thread.run_sync(announce)
    except OverQuota as over:
        raise over_quota(over) from None
    stored = None
    try:
        found = await anyio.to_thread.run_sync(store.expected, services.db, file_id)
        if found is None:
            raise not_found(f"file {file_id}")
        file, most = found
        stored = await kept(
            services,
            file,
            form.content(),
            announced=None,
            most=most,
            told=lambda: told(form.fields),
        )
    finally:
        if stored is not store.Stored.NEW:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(files.remove, services.db, file_id, caller.producer)
    made = await anyio.to_thread.run_sync(files.file, services.db, file_id, caller.producer)
    if made is None:
        raise not_found(f"file {file_id}")  # deleted meanwhile, or no longer taken
    return made
