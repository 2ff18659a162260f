"""What was used: added up by day, producer, account and model, as batches are settled."""

from sqlalchemy import Date, cast, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.models import Batch, Usage

_SUMS = ("batches", "succeeded", "dead", "prompt_tokens", "completion_tokens", "total_tokens")


def count_usage(session: Session, producer: str, batch: Batch) -> None:
    """Add a settled batch to its day (UTC); one that never was at Together used nothing."""
    if batch.provider_batch_id is None:
        return
    row = insert(Usage).values(
        day=cast(func.timezone("UTC", func.now()), Date),
        producer=producer,
        account=batch.account,
        model=batch.model,
        batches=1,
        succeeded=batch.succeeded,
        dead=batch.dead,
        prompt_tokens=batch.prompt_tokens,
        completion_tokens=batch.completion_tokens,
        total_tokens=batch.total_tokens,
    )
    session.execute(
        row.on_conflict_do_update(
            index_elements=["day", "producer", "account", "model"],
            set_={name: Usage.__table__.c[name] + row.excluded[name] for name in _SUMS},
        )
    )
