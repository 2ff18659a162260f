"""The query parameters that filter and page lists."""

import re
from datetime import datetime
from typing import Annotated, Any

import msgspec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from service.rules.names import trouble_with
from service.rules.states import JobState

_BEGINNING = re.compile("[0-9a-f]{4,32}")
METADATA_BYTES = 4096
MOST_MARKS = 20
MOST_BRACKETS = 100
_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def _instant(value: Any) -> datetime:
    text = str(value)
    if not _INSTANT.fullmatch(text):
        raise ValueError(
            "send a time with its zone, as in 2026-11-22T12:00:00Z (a + in a URL is %2B)"
        )
    return datetime.fromisoformat(text.upper())


def without_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("holds a NUL character, which no job does")
    return text


def legible(name: str) -> str:
    """Return a name that an operator gives something. Raises ValueError."""
    if trouble := trouble_with(name):
        raise ValueError(trouble)
    return name


def _mark(value: Any) -> dict[str, Any]:
    """Return what a job's metadata must contain, from `key:value` or a JSON object."""
    text = without_nul(str(value))
    if not text.startswith("{"):
        key, colon, word = text.partition(":")
        if not colon:
            raise ValueError('send key:value, or a JSON object such as {"team": "search"}')
        return {key: word}
    if len(text) > METADATA_BYTES:
        raise ValueError(f"has more than {METADATA_BYTES:,} characters")
    if text.count("{") + text.count("[") > MOST_BRACKETS:
        raise ValueError("nests too deep")
    try:
        mark = msgspec.json.decode(text, type=dict[str, Any])
        if b"\\u0000" in msgspec.json.encode(mark):
            raise ValueError("holds a NUL character, which no job does")
        if not _holds_a_value(mark):
            raise ValueError("name a value: every job has {} in its metadata")
    except (msgspec.DecodeError, RecursionError):
        raise ValueError('is no JSON object; send one such as {"team": "search"}') from None
    return mark


def _holds_a_value(mark: Any) -> bool:
    """Whether the filter holds a value. The index covers values and the paths to them."""
    match mark:
        case dict():
            return any(map(_holds_a_value, mark.values()))
        case list():
            return any(map(_holds_a_value, mark))
        case _:
            return True


def _beginning(value: Any) -> str:
    """Return the first hexadecimal digits of an id, without hyphens."""
    digits = str(value).replace("-", "").lower()
    if not _BEGINNING.fullmatch(digits):
        raise ValueError("send the first 4 to 32 hexadecimal digits of a job's id")
    return digits


Instant = Annotated[datetime, BeforeValidator(_instant)]
Mark = Annotated[dict[str, Any], BeforeValidator(_mark, json_schema_input_type=str)]


class PageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(default=50, ge=1, le=1000)
    cursor: str | None = Field(default=None, description="The `next_cursor` of the previous page.")


class JobsQuery(PageQuery):
    state: list[JobState] = Field(
        default=[], description="The state of the job. It may be given more than once."
    )
    calls: bool = Field(
        default=False,
        description="List the jobs that came as calls, which are left out otherwise.",
    )
    id: Annotated[str, BeforeValidator(_beginning, json_schema_input_type=str)] | None = Field(
        default=None,
        description="Jobs whose id begins so, with 4 digits or more; calls are among them.",
    )
    producer: Annotated[str, AfterValidator(without_nul)] | None = Field(
        default=None, description="The name of the producer. A producer sees its own jobs only."
    )
    metadata: list[Mark] = Field(
        default=[],
        max_length=MOST_MARKS,
        description="`key:value`, or a JSON object, that the job's metadata must contain. If given"
        " more than once, all must match.",
    )
    created_after: Instant | None = Field(
        default=None, description="Jobs created at this time or later."
    )
    created_before: Instant | None = Field(
        default=None, description="Jobs created before this time."
    )
