"""Cut the requests of a job into shards."""

from collections.abc import Iterator

from service.payloads.inputs import InputUnreadable, open_input, open_uploaded, uploaded_blob
from service.payloads.intake import Intake, Taken, take_in
from service.rules.crashpoints import CrashPoint, reached
from service.rules.deadlines import past_problem
from service.rules.errors import BadInput, Problem
from service.rules.outcomes import Fail, Outcome, Split
from service.rules.spec import Spec, read_spec
from service.rules.work import JobClaim
from service.stages.clients import Clients


def split(job: JobClaim, clients: Clients) -> Outcome:
    """Return the job's shards, or fail the job if its requests cannot be used.

    Requests that arrived over HTTP or the queue were cut on arrival. A spec that a producer
    enqueued by SQL, and the file behind `input`, are read here.
    """
    spec = None
    try:
        if job.enqueued is not None:
            # Only Postgres has seen this spec, so it gets the same checks as in the API.
            spec = _enqueued(job, job.enqueued, clients)
        taken = _taken(job, spec, clients)
    except InputUnreadable as error:
        return Fail(str(error), rejected=True, read=spec is not None)
    except BadInput as error:
        return Fail(
            str(error),
            rejected=True,
            problems=tuple(error.problems),
            more=error.more,
            read=spec is not None,
        )
    if taken is None:
        return Fail("the job has neither requests nor an input")
    reached(CrashPoint.SPLIT_COPIED)
    return Split(taken.shards, spec)


def _enqueued(job: JobClaim, data: bytes, clients: Clients) -> Spec:
    """Raises BadInput."""
    spec = read_spec(data, clients.permissions)
    if late := past_problem(spec.deadline, job.created_at):
        raise BadInput([Problem(late)])
    return spec


def _taken(job: JobClaim, spec: Spec | None, clients: Clients) -> Taken | None:
    if spec is not None and spec.input is None:
        return take_in(spec, clients.blobs, _prefix(job), clients.settings)
    return None if job.input is None else _take_input(job, job.input, spec, clients)


def _take_input(job: JobClaim, url: str, spec: Spec | None, clients: Clients) -> Taken:
    bounds = job if spec is None else spec
    with Intake(
        clients.blobs,
        _prefix(job),
        job.endpoint,
        clients.settings,
        keep=clients.lease.keep,
        canary=bounds.canary,
        max_cost=bounds.max_cost,
    ) as intake:
        for block in _blocks(url, clients):
            intake.feed(block)
        return intake.finish()


def _blocks(url: str, clients: Clients) -> Iterator[bytes]:
    blob = uploaded_blob(url)
    if blob is not None:
        return open_uploaded(blob, clients.blobs)
    return open_input(url, clients.permissions.input_roots)


def _prefix(job: JobClaim) -> str:
    return f"jobs/{job.id}/{job.lease}"
