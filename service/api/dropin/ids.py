"""What ids say: which file a job was made of, and which results a file shows."""

import re
from dataclasses import dataclass
from uuid import UUID

from service.payloads.inputs import uploaded_blob
from service.rules.states import JobState
from service.store.models import Job

PURPOSE = "batch-api"
"""Of every file here, as Together calls it."""
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


def input_file_id(job: Job) -> str | None:
    """The file that the job was made of; None where it came another way."""
    found = _BLOB.fullmatch(uploaded_blob(job.input) or "")
    return found and found[1]


def result_file_ids(job: Job) -> dict[str, str]:
    """`output_file_id` and `error_file_id`, each where its file has a line."""
    if job.state not in WITH_RESULTS or not job.generation:
        return {}
    ids = {}
    if job.succeeded:
        ids["output_file_id"] = ResultFileName(job.id, job.generation, failures=False).id
    if job.failed:
        ids["error_file_id"] = ResultFileName(job.id, job.generation, failures=True).id
    return ids
