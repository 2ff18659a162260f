"""Output and error files: the results of a job, cut in two by which requests failed."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from fastapi import Depends

from service.api.auth import CalledBy
from service.api.dropin.errors import not_found
from service.api.dropin.files import Content
from service.api.dropin.ids import WITH_RESULTS, ResultFileName, input_file_id
from service.api.services import Uses
from service.payloads.blobs import Blobs
from service.payloads.selection import Only, Selection, selected, size_of
from service.rules.work import Segment
from service.store import jobs
from service.store.models import Job
from service.store.requests import standing


@dataclass(frozen=True)
class ResultFile:
    """One of the two files of a job, and what it is cut from."""

    file: ResultFileName
    job: Job
    segments: Sequence[Segment]
    selection: Selection

    def size(self, blobs: Blobs) -> int:
        """Bytes of the file: what its content will have."""
        return size_of(blobs, self.segments, self.selection)

    def lines(self, blobs: Blobs, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Its lines in input order, or a range of their bytes, in blocks."""
        return selected(blobs, self.segments, self.selection, start=start, stop=stop)

    def content(self, blobs: Blobs) -> Content:
        return Content(self.file.id, self.size(blobs), partial(self.lines, blobs))


def result_file(file_id: str, services: Uses, caller: CalledBy) -> ResultFile | None:
    """The result file in the path; None where the id is not that of one. Raises HttpProblem."""
    file = ResultFileName.read(file_id)
    if file is None:
        return None
    job = jobs.job(services.db, file.job_id, caller.producer)
    if (
        job is None
        or input_file_id(job) is None
        or not (job.failed if file.failures else job.succeeded)
    ):
        raise not_found(f"file {file_id}")
    # Dead letters go when failed requests are run again; then these are not all of them.
    known = standing(services.db, job.id)
    if known is None or known.state not in WITH_RESULTS or known.generation != file.generation:
        raise not_found(f"file {file_id}")
    segments = jobs.segments(services.db, job.id, known.generation)
    only = Only.FAILED if file.failures else Only.SUCCEEDED
    return ResultFile(file, job, segments, Selection(only, known.failed, array("Q")))


MaybeResultFile = Annotated[ResultFile | None, Depends(result_file)]
