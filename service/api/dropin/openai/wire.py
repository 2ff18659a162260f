"""Files and batches as OpenAI writes them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from config.settings import Settings
from service.api.dropin.files import expires_at
from service.api.dropin.ids import input_file_id, result_file_ids
from service.rules.states import JobState
from service.store.models import File, Job

PURPOSE = "batch"
WINDOW = "24h"
"""The only one that OpenAI knows. Nothing ends after it here."""

_STATUSES = {
    JobState.ACCEPTED: "validating",
    JobState.RUNNING: "in_progress",
    JobState.COMPLETED: "completed",
    JobState.CANCELLED: "cancelled",
    JobState.REJECTED: "failed",
    JobState.FAILED: "failed",
}
_ENDED_AT = {
    JobState.COMPLETED: "completed_at",
    JobState.CANCELLED: "cancelled_at",
    JobState.REJECTED: "failed_at",
    JobState.FAILED: "failed_at",
}


def file_object(file: File, settings: Settings) -> dict[str, Any]:
    return _file(file.id, file.filename, file.bytes or 0, file.created_at, PURPOSE) | {
        "expires_at": _seconds(expires_at(file, settings))
    }


def result_file_object(file_id: str, size: int, made_at: datetime | None) -> dict[str, Any]:
    return _file(file_id, f"{file_id}.jsonl", size, made_at, "batch_output")


def _file(
    file_id: str, name: str, size: int, made_at: datetime | None, purpose: str
) -> dict[str, Any]:
    return {
        "id": file_id,
        "object": "file",
        "bytes": size,
        "created_at": _seconds(made_at) or 0,
        "expires_at": None,
        "filename": name,
        "purpose": purpose,
        "status": "processed",
        "status_details": None,
    }


def batch_object(job: Job) -> dict[str, Any]:
    """`usage` is left out: OpenAI's has details that Haulier does not count."""
    fields: dict[str, Any] = {
        "id": str(job.id),
        "object": "batch",
        "endpoint": job.endpoint,
        "errors": _errors(job),
        "input_file_id": input_file_id(job),
        "completion_window": WINDOW,
        "status": _status(job),
        "output_file_id": None,
        "error_file_id": None,
        "created_at": _seconds(job.created_at),
        "in_progress_at": _seconds(job.started_at),
        "expires_at": None,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": _seconds(job.cancel_requested_at),
        "cancelled_at": None,
        "request_counts": {
            "total": job.total,
            "completed": job.succeeded,
            "failed": job.failed,
        },
        "metadata": job.labels or None,
    }
    if job.state in _ENDED_AT:
        fields[_ENDED_AT[job.state]] = _seconds(job.finished_at)
    return fields | result_file_ids(job)


def page(shown: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page of a list."""
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": has_more,
    }


def _status(job: Job) -> str:
    if job.finished_at is None and job.cancel_requested_at is not None:
        return "cancelling"
    if job.state is JobState.RUNNING and job.total and not job.pending:
        return "finalizing"
    return _STATUSES[job.state]


def _errors(job: Job) -> dict[str, Any] | None:
    if job.error is None:
        return None
    problems = job.problems or [{"line": None, "message": job.error}]
    data = [
        {"code": "invalid_input", "line": one["line"], "message": one["message"], "param": None}
        for one in problems
    ]
    return {"object": "list", "data": data}


def _seconds(at: datetime | None) -> int | None:
    """Since 1970."""
    return None if at is None else int(at.timestamp())
