"""Put a job's results together, once no batch of it is open."""

from service.payloads import results
from service.rules.crashpoints import CrashPoint, reached
from service.rules.work import Assembled, JobClaim, Outcome
from service.stages.clients import Clients


def assemble(job: JobClaim, clients: Clients) -> Outcome:
    """A generation of results under a fresh name; readers of the last one are not disturbed."""
    prefix = f"jobs/{job.id}/{job.lease}"
    segments = results.assembled(clients.blobs, prefix, job.final_lines, clients.lease.keep)
    reached(CrashPoint.ASSEMBLE_WRITTEN)
    return Assembled(segments)
