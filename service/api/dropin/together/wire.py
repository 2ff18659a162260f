"""Files and batches as Together writes them."""

from datetime import datetime, timedelta
from typing import Any

from config.settings import Settings
from service.api.dropin.files import expires_at
from service.api.dropin.ids import PURPOSE, ResultFileName, input_file_id, result_file_ids
from service.rules.states import JobState
from service.store.models import File, Job

_STATUSES = {
    JobState.ACCEPTED: "VALIDATING",
    JobState.RUNNING: "IN_PROGRESS",
    JobState.COMPLETED: "COMPLETED",
    JobState.CANCELLED: "CANCELLED",
    JobState.REJECTED: "FAILED",
    JobState.FAILED: "FAILED",
}
_WINDOW = timedelta(hours=24)
"""Nothing ends after it, here or at Together. But SDKs before 3.0 insist on a `job_deadline`."""
_CANCELING_IS_UNKNOWN = "PythonBindings/1.5."
"""What SDKs call themselves that break at a status they do not know."""


def file_object(file: File, settings: Settings) -> dict[str, Any]:
    return _file(file.id, file.filename, file.bytes or 0, file.created_at) | {
        "expires_at": int(expires_at(file, settings).timestamp()),
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


def batch_object(job: Job, size: int | None, user_agent: str = "") -> dict[str, Any]:
    """`size` is that of the input file, where it is still known."""
    canceling = job.cancel_requested_at is not None and job.finished_at is None
    canceling = canceling and _CANCELING_IS_UNKNOWN not in user_agent
    fields = {
        "id": str(job.id),
        "user_id": job.producer,
        "input_file_id": input_file_id(job),
        "file_size_bytes": size or 0,
        "endpoint": job.endpoint,
        "status": "CANCELING" if canceling else _STATUSES[job.state],
        "progress": _progress(job),
        "created_at": job.created_at.isoformat(),
        "completed_at": None if job.finished_at is None else job.finished_at.isoformat(),
        "job_deadline": (job.created_at + _WINDOW).isoformat(),
        "error": job.error,
        **result_file_ids(job),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _progress(job: Job) -> float:
    """Percent of the requests that have their results."""
    return round(100 * (job.succeeded + job.failed) / job.total, 2) if job.total else 0.0
