"""Together's wire format: files and batches as its answers show them.

Everything is read leniently, field by field (TOGETHER_API): a field of an odd shape counts as
absent. Only an object without a legible id is refused.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from service.together.lenient import count, identifier, number, storable

_ENDED = frozenset({"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"})
_SPELLINGS = {"CANCELED": "CANCELLED", "CANCELING": "CANCELLING"}
UNKNOWN = "UNKNOWN"
"""The status of a batch that shows none."""
MILLISECONDS = 1e11
"""A time above this is in milliseconds: as seconds it would lie in the year 5138."""


@dataclass(frozen=True)
class File:
    """A file that Together holds. `bytes` is None if the answer tells no size above 0."""

    id: str
    bytes: int | None = None
    filename: str | None = None


@dataclass(frozen=True)
class ProviderBatch:
    """A batch at Together. `status` is in upper case, with one spelling for each meaning.

    `created_at` is in seconds since 1970.
    """

    id: str
    status: str
    input_file_id: str | None
    progress: float | None
    output_file_id: str | None
    error_file_id: str | None
    error: str | None
    created_at: float | None

    @property
    def ended(self) -> bool:
        """Whether the status is terminal. An unknown status is not."""
        return self.status in _ENDED


def read_file(data: Any) -> File | None:
    """Return a file, or None if the answer shows none."""
    file_id = identifier(data.get("id")) if isinstance(data, dict) else None
    if file_id is None:
        return None
    name = data.get("filename")
    size = count(data.get("bytes"), 2**63 - 1)
    return File(file_id, size or None, storable(name, 1000) if isinstance(name, str) else None)


def read_batch(data: Any) -> ProviderBatch | None:
    """Return a batch with its status normalised, or None if the answer shows none."""
    batch_id = identifier(data.get("id")) if isinstance(data, dict) else None
    if batch_id is None:
        return None
    status = data.get("status")
    status = storable(status, 100).strip().upper() if isinstance(status, str) else ""
    error = data.get("error")
    return ProviderBatch(
        id=batch_id,
        status=_SPELLINGS.get(status, status) or UNKNOWN,
        input_file_id=identifier(data.get("input_file_id")),
        progress=_progress(data.get("progress")),
        output_file_id=identifier(data.get("output_file_id")),
        error_file_id=identifier(data.get("error_file_id")),
        error=None if error is None else storable(error, 2000),
        created_at=_instant(data.get("created_at")),
    )


def read_created(data: Any) -> ProviderBatch | None:
    """Return the batch in the answer to a create, or None if the answer does not show it."""
    if not isinstance(data, dict):
        return None
    return read_batch(data.get("job", data))


def read_batches(data: Any, ids: Collection[str] | None) -> tuple[list[ProviderBatch], int] | None:
    """Return the batches of a list, or those with these ids, and how many entries are illegible.

    Returns None if the answer is no list. An entry that cannot be read hides no other.
    """
    if data is None:  # an account without any batch
        return [], 0
    if not isinstance(data, list):
        return None
    found = []
    odd = 0
    for entry in data:
        if ids is not None and isinstance(entry, dict) and str(entry.get("id")) not in ids:
            continue
        batch = read_batch(entry)
        if batch is None:
            odd += 1
        else:
            found.append(batch)
    return found, odd


def _progress(value: object) -> float | None:
    percent = number(value)
    return None if percent is None else max(0.0, min(percent, 100.0))


def _instant(value: object) -> float | None:
    """Return a time in seconds since 1970: from a number, or from RFC 3339."""
    seconds = number(value)
    if seconds is not None:
        return seconds / 1000 if seconds > MILLISECONDS else seconds
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
