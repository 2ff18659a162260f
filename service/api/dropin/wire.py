"""Files and batches as Together writes them."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from config.settings import Settings
from service.payloads.inputs import uploaded_blob
from service.rules.states import JobState
from service.store.models import File, Job

PURPOSE = "batch-api"

_STATUSES = {
    JobState.ACCEPTED: "VALIDATING",
    JobState.RUNNING: "IN_PROGRESS",
    JobState.COMPLETED: "COMPLETED",
    JobState.CANCELLED: "CANCELLED",
    JobState.REJECTED: "FAILED",
    JobState.FAILED: "FAILED",
}
WITH_RESULTS = frozenset({JobState.COMPLETED, JobState.CANCELLED})

_BLOB = re.compile(r"files/([^/]+)/[0-9a-f-]{36}")
_FORM = re.compile(r"file-(output|errors)-([0-9a-f-]{36})-([1-9][0-9]{0,9})")


@dataclass(frozen=True)
class ResultFileName:
    """A file that is nowhere stored: the successes, or the failures, of a job's results.

    Of one generation: when failed requests are run again, it is another file.
    """

    job_id: UUID
    generation: int
    failures: bool

    @property
    def id(self) -> str:
        return f"file-{'errors' if self.failures else 'output'}-{self.job_id}-{self.generation}"

    @classmethod
    def read(cls, file_id: str) -> "ResultFileName | None":
        found = _FORM.fullmatch(file_id)
        try:
            return found and cls(UUID(found[2]), int(found[3]), found[1] == "errors")
        except ValueError:
            return None


def file_object(file: File, settings: Settings) -> dict[str, Any]:
    expires_at = file.renewed_at + timedelta(days=settings.file_days)
    return _file(file.id, file.filename, file.bytes or 0, file.created_at) | {
        "expires_at": int(expires_at.timestamp()),
        "purpose": file.purpose,
        "LineCount": file.lines or 0,
    }


def result_file_object(file: ResultFileName, size: int, made_at: datetime | None) -> dict[str, Any]:
    return _file(file.id, f"{file.id}.jsonl", size, made_at)


def _file(file_id: str, name: str, size: int, made_at: datetime | None) -> dict[str, Any]:
    return {
        "id": file_id,
        "object": "file",
        "created_at": int(made_at.timestamp()) if made_at is not None else 0,
        "filename": name,
        "bytes": size,
        "purpose": PURPOSE,
        "FileType": "jsonl",
        "Processed": True,
        "processing_status": "COMPLETED",
    }


def input_file_id(job: Job) -> str | None:
    """The file that the job was made of; None where it came another way."""
    found = _BLOB.fullmatch(uploaded_blob(job.input) or "")
    return found and found[1]


def batch_object(job: Job, size: int | None) -> dict[str, Any]:
    """`size` is that of the input file, where it is still known."""
    canceling = job.cancel_requested_at is not None and job.state is JobState.RUNNING
    fields = {
        "id": str(job.id),
        "user_id": job.producer,
        "input_file_id": input_file_id(job),
        "file_size_bytes": size,
        "endpoint": job.endpoint,
        "status": "CANCELING" if canceling else _STATUSES[job.state],
        "progress": _progress(job),
        "created_at": job.created_at.isoformat(),
        "completed_at": None if job.finished_at is None else job.finished_at.isoformat(),
        "error": job.error,
    }
    if job.state in WITH_RESULTS and job.generation:
        if job.succeeded:
            fields["output_file_id"] = ResultFileName(job.id, job.generation, failures=False).id
        if job.failed:
            fields["error_file_id"] = ResultFileName(job.id, job.generation, failures=True).id
    return {name: value for name, value in fields.items() if value is not None}


def _progress(job: Job) -> float:
    """Percent of the requests that have their results."""
    return round(100 * (job.succeeded + job.failed) / job.total, 2) if job.total else 0.0
