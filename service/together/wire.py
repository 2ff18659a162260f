"""Together's wire format: files and batches as its answers show them."""

from dataclasses import dataclass
from typing import Any

import msgspec

_ENDED = frozenset({"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"})
_SPELLINGS = {"CANCELED": "CANCELLED", "CANCELING": "CANCELLING"}


class File(msgspec.Struct, frozen=True):
    """A file that Together holds. `bytes` is None if the answer leaves it out."""

    id: str
    bytes: int | None = None
    filename: str | None = None


class BatchObject(msgspec.Struct, gc=False):
    """A batch as Together shows it. The list of an account may hold tens of thousands."""

    id: str
    status: str
    input_file_id: str | None = None
    progress: float | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    error: Any = None
    created_at: str | None = None


class Created(msgspec.Struct):
    """The answer to a create."""

    job: BatchObject | None = None
    warning: Any = None


@dataclass(frozen=True)
class ProviderBatch:
    """A batch at Together. `status` is in upper case, with one spelling for each meaning."""

    id: str
    status: str
    input_file_id: str | None
    progress: float | None
    output_file_id: str | None
    error_file_id: str | None
    error: str | None
    created_at: str | None

    @property
    def ended(self) -> bool:
        """Whether the status is terminal. An unknown status is not."""
        return self.status in _ENDED

    @property
    def without_files(self) -> bool:
        return self.output_file_id is None and self.error_file_id is None


def provider_batch(job: BatchObject) -> ProviderBatch:
    """Return a batch with its status normalised and its texts ready to be stored."""
    status = storable(job.status, 100).upper()
    return ProviderBatch(
        id=job.id,
        status=_SPELLINGS.get(status, status),
        input_file_id=job.input_file_id,
        progress=job.progress,
        output_file_id=job.output_file_id or None,
        error_file_id=job.error_file_id or None,
        error=None if job.error is None else storable(job.error, 2000),
        created_at=job.created_at,
    )


def storable(words: object, most: int) -> str:
    """Return Together's words without NULs and cut to `most` characters, as a text column needs."""
    return str(words).replace("\x00", "\ufffd")[:most]
