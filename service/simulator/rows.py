"""What the simulator remembers: files, batches, and what executing a line came to."""

from typing import Literal, NamedTuple

import msgspec

from service.simulator.scenario import BatchRule

BatchStatus = Literal[
    "VALIDATING", "IN_PROGRESS", "CANCELING", "COMPLETED", "FAILED", "EXPIRED", "CANCELLED"
]
TERMINAL = frozenset({"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"})


class FileRow(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the Files API. `bytes` is 0 until its content is stored."""

    id: str
    account: str
    filename: str
    purpose: str
    file_type: str
    role: Literal["input", "output", "error"]
    bytes: int
    checksum: str | None
    created_at: float
    state: Literal["pending", "stored", "deleted"]


class BatchRow(msgspec.Struct, frozen=True, kw_only=True):
    """A batch. Instants are Unix seconds; `share` is the part of its lines that were executed."""

    seq: int
    id: str
    account: str
    input_file_id: str
    endpoint: str
    model_id: str | None
    status: BatchStatus
    seconds: float
    rule: BatchRule
    created_at: float
    started_at: float | None
    canceling_at: float | None
    completed_at: float | None
    share: float
    error: str | None
    output_file_id: str | None
    error_file_id: str | None
    terminal_reads: int
    file_size_bytes: int


class LineBooking(NamedTuple):
    """What executing one line came to. Lines that went missing neither succeeded nor failed."""

    custom_id: str
    succeeded: int
    failed: int
