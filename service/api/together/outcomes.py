"""Output and error files: the results of a job, cut in two by which requests failed."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated

from fastapi import Depends

from service.api.auth import CalledBy
from service.api.services import Uses
from service.api.together.errors import not_found
from service.api.together.wire import WITH_RESULTS, OutcomeFile, input_file_id
from service.blobs import Blobs
from service.models import Job
from service.results import read_index
from service.store import files as store
from service.store import jobs
from service.work import Segment

PAGE = 10_000


@dataclass(frozen=True)
class Outcome:
    """One of the two files of a job, and what it is cut from."""

    file: OutcomeFile
    job: Job
    segments: Sequence[Segment]
    dead: "array[int]"
    """Ordinals of the requests that failed for good, in order."""

    def size(self, blobs: Blobs) -> int:
        """Bytes of the file: what its content will have."""
        whole = sum(segment.bytes for segment in self.segments)
        if not self.dead:
            return 0 if self.file.failures else whole
        failures = sum(
            length
            for segment in self.segments
            for _, length in spans(blobs, segment, self.dead, failures=True)
        )
        return failures if self.file.failures else whole - failures

    def content(self, blobs: Blobs) -> Iterator[bytes]:
        """Its lines in input order, in blocks."""
        for segment in self.segments:
            for offset, length in spans(blobs, segment, self.dead, failures=self.file.failures):
                yield from blobs.stream(segment.blob, offset, length)


def spans(
    blobs: Blobs, segment: Segment, dead: Sequence[int], *, failures: bool
) -> Iterator[tuple[int, int]]:
    """Where in a segment the lines of failures stand, or those of successes: (offset, length)."""
    if not dead:
        if not failures:
            yield 0, segment.bytes
        return
    index = read_index(blobs, segment.index_blob)
    ends = array("Q", accumulate(index.lengths, initial=0))
    at = 0  # the first line that is in no span yet
    first = bisect_left(dead, index.ordinals[0])
    last = bisect_left(dead, index.ordinals[-1] + 1)
    for ordinal in dead[first:last]:
        line = bisect_left(index.ordinals, ordinal)
        if failures:
            yield ends[line], index.lengths[line]
        elif line > at:
            yield ends[at], ends[line] - ends[at]
        at = line + 1
    if not failures and at < len(index.lengths):
        yield ends[at], ends[-1] - ends[at]


def outcome(file_id: str, services: Uses, caller: CalledBy) -> Outcome | None:
    """The outcome file in the path; None where the id is not that of one. Raises HttpProblem."""
    file = OutcomeFile.read(file_id)
    if file is None:
        return None
    db = services.db
    job = jobs.job(db, file.job_id, caller.producer)
    if (
        job is None
        or input_file_id(job) is None
        or job.state not in WITH_RESULTS
        or job.generation != file.generation
        or not (job.failed if file.failures else job.succeeded)
    ):
        raise not_found(f"file {file_id}")
    segments = jobs.segments(db, job.id, job.generation)
    dead = array("Q")
    while page := jobs.failures(db, job.id, after=dead[-1] if dead else -1, limit=PAGE):
        dead.extend(letter.ordinal for letter in page)
    # Dead letters go when failed requests are run again; then these are not all of them.
    if not store.is_still(db, job.id, job.state, job.generation):
        raise not_found(f"file {file_id}")
    return Outcome(file, job, segments, dead)


MaybeOutcome = Annotated[Outcome | None, Depends(outcome)]
