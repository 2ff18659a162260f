"""Put the results of a job together once all its batches are done."""

from service.payloads import results
from service.rules.crashpoints import CrashPoint, reached
from service.rules.outcomes import Assembled, Outcome
from service.rules.work import JobClaim
from service.stages.clients import Clients


def assemble(job: JobClaim, clients: Clients) -> Outcome:
    """Write the results under a fresh name, so that readers of the previous ones can finish."""
    prefix = f"jobs/{job.id}/{job.lease}"
    segments = results.assembled(clients.blobs, prefix, job.final_lines, clients.lease.keep)
    reached(CrashPoint.ASSEMBLE_WRITTEN)
    return Assembled(segments)
