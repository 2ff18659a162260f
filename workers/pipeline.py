"""Which messages carry which work. A message is a nudge: ids only, and it may get lost."""

from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

from celery import chain, signature

from service.states import Stage
from service.store.due import Due
from workers.app import CONTROL, TRANSFER

PAGE = 1000
"""Batches in one poll message, so that one list serves many."""

QUEUES = {
    Stage.SPLIT: TRANSFER,
    Stage.ASSEMBLE: TRANSFER,
    Stage.UPLOAD: TRANSFER,
    Stage.FETCH: TRANSFER,
    Stage.CREATE: CONTROL,
    Stage.POLL: CONTROL,
}


def link(stage: Stage, *arguments: Any, expires: timedelta) -> Any:
    """One link of a chain. Each has its own expiry: a chain's does not reach the later links."""
    return signature(
        f"haulier.{stage}",
        args=arguments,
        immutable=True,
        queue=QUEUES[stage],
        expires=expires.total_seconds(),
    )


def sweep(account: str, spent_file_ids: list[str], *, expires: timedelta) -> Any:
    """The message to look for batches under files that were given up."""
    return signature(
        "haulier.sweep",
        args=(account, spent_file_ids),
        immutable=True,
        queue=CONTROL,
        expires=expires.total_seconds(),
    )


def messages(due: Iterable[Due], expires: timedelta) -> Iterator[tuple[Any, list[UUID]]]:
    """The messages for rows that are due, each with the ids that it speaks of.

    A batch goes as far as it can without waiting: upload → create, and later poll → fetch (the
    poll task starts the fetch of each batch that has ended).
    """
    rows = sorted(due, key=lambda row: (row.stage, row.account))
    for (stage, _), group in groupby(rows, key=lambda row: (row.stage, row.account)):
        ids = [row.id for row in group]
        if stage is Stage.POLL:
            for start in range(0, len(ids), PAGE):
                page = ids[start : start + PAGE]
                yield link(stage, [str(i) for i in page], expires=expires), page
            continue
        for row_id in ids:
            first = link(stage, str(row_id), expires=expires)
            if stage is Stage.UPLOAD:
                second = link(Stage.CREATE, str(row_id), expires=expires)
                yield chain(first, second), [row_id]
            else:
                yield first, [row_id]
