"""Sweeps blobs that no row names: their writer died, or was refused, before it committed the name.

A blob younger than a day stays, since its writer may still commit the name. A day is enough: a task
ends after six hours (workers.app), and a request body that is still arriving writes a shard at
least that often, unless it comes at less than a kilobyte a second.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog

from service.payloads.blobs import Blobs
from service.rules.errors import HandedBack
from service.store import expiry, named
from service.store.engine import Database
from service.store.models import Batch, Job

log = structlog.get_logger()

DAY = timedelta(days=1)
JOBS, BATCHES, BUNDLES, FILES = "jobs/", "batches/", "pages/", "files/file-"
UUID_LENGTH = 36


def sweep(
    db: Database,
    blobs: Blobs,
    *,
    older_than: timedelta = DAY,
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Delete blobs that no row names. Returns the number of blobs deleted.

    Raises HandedBack between two pages if the process is to stop.

    Memory holds one page of the storage's listing at a time. The database is asked for a page's
    names after the page was read, so a name that is committed meanwhile counts. A blob whose name
    does not look like one of Haulier's stays.
    """
    before = datetime.now(UTC) - older_than
    swept = 0

    def pages(prefix: str) -> Iterator[list[str]]:
        for names in blobs.older(prefix, before):
            if stopping():
                raise HandedBack
            yield names

    for prefix, row in ((JOBS, Job), (BATCHES, Batch)):
        for names in pages(prefix):
            swept += _delete(blobs, _unnamed(db, blobs, names, before, prefix=prefix, row=row))
    for names in pages(BUNDLES):
        swept += _delete(blobs, _unnamed_of_bundles(db, names))
    for names in pages("files/"):
        swept += _delete(blobs, _unnamed_of_files(db, names))
    expiry.forget(db, older_than=older_than)
    log.info("blobs_swept", blobs=swept)
    return swept


def _delete(blobs: Blobs, names: list[str]) -> int:
    blobs.delete(names)
    return len(names)


def _unnamed(
    db: Database,
    blobs: Blobs,
    names: list[str],
    before: datetime,
    *,
    prefix: str,
    row: type[Job | Batch],
) -> list[str]:
    """Return those of `<prefix><id>/…` that nothing of that row names; all if it does not exist."""
    by_id: defaultdict[UUID, list[str]] = defaultdict(list)
    for name in names:
        owner = _id_after(prefix, name)
        if owner is not None and name.startswith(f"{prefix}{owner}/"):
            by_id[owner].append(name)
    known = named.existing(db, by_id, row)
    # A job that is still arriving has no row yet, and its first blobs may be old.
    unknown = [
        owner
        for owner in by_id.keys() - known
        if not blobs.holds_younger(f"{prefix}{owner}/", before)
    ]
    of_known = {name for owner in known for name in by_id[owner]}
    return [
        *(name for owner in unknown for name in by_id[owner]),
        *(of_known - named.named(db, known, row, of_known)),
    ]


def _unnamed_of_bundles(db: Database, names: list[str]) -> list[str]:
    """Return those of `pages/<id>…` whose name does not begin with the bundle of any job."""
    ours = [name for name in names if _id_after(BUNDLES, name) is not None]
    shared = named.bundles(db, {beginning for name in ours for beginning in _beginnings(name)})
    return [name for name in ours if shared.isdisjoint(_beginnings(name))]


def _unnamed_of_files(db: Database, names: list[str]) -> list[str]:
    """Return those of `files/file-<id>/…` that no uploaded file has and no job still reads."""
    ours = [name for name in names if _id_after(FILES, name) is not None]
    return sorted(set(ours) - expiry.named(db, ours))


def _beginnings(name: str) -> Iterator[str]:
    """Yield each possible name of the blob's bundle: beginnings of `name`, from `pages/<id>` on."""
    return (name[:end] for end in range(len(BUNDLES) + UUID_LENGTH, len(name) + 1))


def _id_after(prefix: str, name: str) -> UUID | None:
    part = name[len(prefix) : len(prefix) + UUID_LENGTH]
    try:
        found = UUID(part)
    except ValueError:
        return None
    return found if str(found) == part else None
