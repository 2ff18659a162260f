"""The state of a job in a word or two, with how it stands to its deadline."""

from service.cli.documents import Job


def state_of(job: Job) -> str:
    """Return the job's state; `running, late` where its deadline is over."""
    if job.ended or job.deadline is None:
        return job.state
    if job.deadline_missed_at is not None:
        return f"{job.state}, late"
    return job.state if job.deadline_at_risk_since is None else f"{job.state}, at risk"
