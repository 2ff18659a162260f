"""The batch that carries on with requests of another one."""

from uuid import uuid4

from service.rules.states import BatchState
from service.store.models import Batch, Job


def successor(
    job: Job, parent: Batch, *, manifest_blob: str, requests: int, size: int, poison: int = 0
) -> Batch:
    """A queued batch of the same shard, one attempt later."""
    return Batch(
        id=uuid4(),
        job_id=parent.job_id,
        parent_id=parent.id,
        state=BatchState.QUEUED,
        shard=parent.shard,
        attempt=parent.attempt + 1,
        poison=poison,
        account=parent.account,
        endpoint=job.endpoint,
        producer=parent.producer,
        priority=parent.priority,
        model=parent.model,
        input_blob=parent.input_blob,
        manifest_blob=manifest_blob,
        bytes=size,
        requests=requests,
    )
