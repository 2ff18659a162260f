"""What is known of each model under each account."""

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.models import Batch, Lane

MEMORY = 10
"""How many batches the moving averages look back on."""


def learn_pace(session: Session, batch: Batch) -> None:
    """Count a batch that Together completed just now into how long such batches take."""
    if batch.submitted_at is None:
        return
    added = insert(Lane).values(
        account=batch.account,
        model=batch.model,
        ended=1,
        seconds=func.extract("epoch", func.now() - batch.submitted_at),
    )
    # A plain mean at first, so that the first one counts for no more than the others.
    weight = func.least(Lane.ended + 1, MEMORY)
    mean = Lane.seconds + (added.excluded.seconds - Lane.seconds) / weight
    session.execute(
        added.on_conflict_do_update(
            index_elements=[Lane.account, Lane.model],
            set_={
                "ended": Lane.ended + 1,
                "seconds": func.coalesce(mean, added.excluded.seconds),
            },
        )
    )
