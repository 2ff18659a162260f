"""Cut a job into shards."""

from collections.abc import Iterator

from service.crashpoints import CrashPoint, reached
from service.errors import BadInput
from service.inputs import InputUnreadable, open_input, open_uploaded, uploaded_blob
from service.intake import Intake
from service.stages.clients import Clients
from service.work import Fail, JobClaim, Outcome, Split


def split(job: JobClaim, clients: Clients) -> Outcome:
    """What came over HTTP or the queue was cut as it came in; `input` is read here."""
    if job.shards is not None:
        return Split(job.shards)
    if job.input is None:
        return Fail("the job has neither requests nor an input")
    settings = clients.settings
    try:
        with Intake(
            clients.blobs,
            f"jobs/{job.id}/{job.lease}",
            job.endpoint,
            settings,
        ) as intake:
            for block in _blocks(job.input, clients):
                intake.feed(block)
                clients.lease.keep()
            taken = intake.finish()
        reached(CrashPoint.SPLIT_COPIED)
        return Split(taken.shards)
    except InputUnreadable as error:
        return Fail(str(error), rejected=True)
    except BadInput as error:
        return Fail(str(error), rejected=True, problems=tuple(error.problems), more=error.more)


def _blocks(url: str, clients: Clients) -> Iterator[bytes]:
    blob = uploaded_blob(url)
    if blob is not None:
        return open_uploaded(blob, clients.blobs)
    return open_input(url, clients.settings.input_roots)
