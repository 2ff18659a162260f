"""The cursors of lists: opaque strings that say where a page ended."""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec

from service.api.problems import invalid

_Instant = Annotated[datetime, msgspec.Meta(tz=True)]
# Postgres text cannot hold a NUL.
_Text = Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[^\x00]*$")]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class AfterJob(msgspec.Struct, frozen=True, array_like=True, tag="job", forbid_unknown_fields=True):
    created_at: _Instant
    id: UUID


class AfterPart(
    msgspec.Struct, frozen=True, array_like=True, tag="batch", forbid_unknown_fields=True
):
    shard: _Number
    created_at: _Instant
    id: UUID


class AfterEvent(
    msgspec.Struct, frozen=True, array_like=True, tag="event", forbid_unknown_fields=True
):
    id: _Number


class AfterAudit(
    msgspec.Struct, frozen=True, array_like=True, tag="audit", forbid_unknown_fields=True
):
    id: _Number


class AfterFailure(
    msgspec.Struct, frozen=True, array_like=True, tag="failure", forbid_unknown_fields=True
):
    ordinal: _Number


class AfterProducer(
    msgspec.Struct, frozen=True, array_like=True, tag="producer", forbid_unknown_fields=True
):
    name: _Text


class AfterToken(
    msgspec.Struct, frozen=True, array_like=True, tag="token", forbid_unknown_fields=True
):
    created_at: _Instant
    id: _Text


class AfterDelivery(
    msgspec.Struct, frozen=True, array_like=True, tag="delivery", forbid_unknown_fields=True
):
    created_at: _Instant
    id: UUID


C = TypeVar(
    "C",
    AfterJob,
    AfterPart,
    AfterEvent,
    AfterFailure,
    AfterProducer,
    AfterToken,
    AfterDelivery,
    AfterAudit,
)


def written(cursor: Any) -> str:
    """Return the cursor as text."""
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def read(text: str, kind: type[C]) -> C:
    """Return the cursor in a text. Raises HttpProblem (422) if this list never issued it."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(data, type=kind)
    except (ValueError, binascii.Error, msgspec.DecodeError, RecursionError):
        raise invalid("query cursor: use a `next_cursor` of this same list, unchanged") from None
