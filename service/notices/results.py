"""The results of a small job, as its notices carry them."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import msgspec
import structlog

from service.payloads.blobs import Blobs
from service.payloads.results import stream
from service.rules.notices import MOST_RESULT_BYTES, NoticeEvent
from service.rules.work import Segment
from service.store.notices import Sending

log = structlog.get_logger(__name__)


class Omitted(msgspec.Struct, frozen=True):
    """Why a notice that should carry results carries none. `code` is stable."""

    code: str
    message: str


Results = Sequence[Any] | Omitted

SPARE_LEVELS = 200
"""Levels of nesting that are left to whoever encodes a notice, or reads it."""

UNAVAILABLE = Omitted("unavailable", "blob storage did not answer in time, or in full")


def results_of(
    sending: Sending, segments: Sequence[Segment], blobs: Callable[[], Blobs]
) -> Results:
    """Return the results, one JSON value each: raw lines for a webhook, decoded ones for a task.

    Never raises: a notice without results says more than none.
    """
    job = sending.job
    if sending.event == NoticeEvent.PROGRESS:
        return Omitted("not_ended", "only the notice of the job's end carries results")
    if not job.generation:
        return Omitted("no_results", f"the job is {job.state}, and has no results")
    size = sum(segment.bytes for segment in segments)
    if size > MOST_RESULT_BYTES:
        return _too_large(size)
    try:
        lines = b"".join(stream(blobs(), segments)).split(b"\n")[:-1]
    except Exception as error:  # noqa: BLE001  whatever it is, it is no fault of the receiver
        log.warning("results_not_read", error=repr(error))
        return UNAVAILABLE
    values = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(_value(line.decode()))
        except (ValueError, RecursionError):
            return Omitted(
                "unreadable",
                f"line {number} of the results is not JSON in UTF-8, has a number that is too"
                " large, or nests too deep",
            )
    if "webhook" in sending.target:
        return [msgspec.Raw(line) for line in lines]
    size = len(json.dumps(values))  # as Celery encodes them
    return values if size <= MOST_RESULT_BYTES else _too_large(size)


def _value(line: str) -> Any:
    """Read one line strictly. Raises ValueError, and RecursionError also for what barely fits."""
    json.loads("[" * SPARE_LEVELS + line + "]" * SPARE_LEVELS)
    value = json.loads(line, parse_constant=_no_json)
    json.dumps(value, allow_nan=False)
    return value


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _too_large(size: int) -> Omitted:
    return Omitted(
        "too_large",
        f"the results have {size:,} bytes, and a notice carries up to {MOST_RESULT_BYTES:,}",
    )
