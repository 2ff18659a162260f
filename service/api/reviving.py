"""Running failed requests of a finished job again: the same for the API and the console."""

from collections.abc import Sequence
from uuid import UUID, uuid4

import msgspec

from service.payloads.blobs import Blobs
from service.rules.crashpoints import CrashPoint, reached
from service.store.audit import Actor
from service.store.engine import Database
from service.store.parked import unpark
from service.store.revive import DeadLetters, Revival, dead_letters_by_part, revive


class NoneFailed(Exception):
    """The job has no failed requests."""


class UnknownRequests(Exception):
    """These are no failed requests of the job."""

    def __init__(self, custom_ids: Sequence[str]) -> None:
        super().__init__(f"{len(custom_ids)} of the custom_ids are no failed requests of this job")
        self.custom_ids = custom_ids


def retry(
    db: Database,
    blobs: Blobs,
    job_id: UUID,
    custom_ids: Sequence[str] | None,
    *,
    operator: Actor | None,
) -> None:
    """Retry failed requests, all of them with None; in a running job, resume parked work instead.

    Raises NoneFailed, UnknownRequests, and Conflict if the job is not finished.
    """
    if custom_ids is None and unpark(db, job_id, operator=operator):
        return
    found, names = dead_letters_by_part(db, job_id, custom_ids)
    unknown = [custom_id for custom_id in custom_ids or () if custom_id not in names]
    if unknown:
        raise UnknownRequests(unknown)
    if not found:
        raise NoneFailed("the job has no failed requests")
    revivals = [_revival(blobs, f"jobs/{job_id}/{uuid4()}", each) for each in found]
    reached(CrashPoint.RETRY_WRITTEN)
    revive(db, job_id, revivals, operator=operator)


def _revival(blobs: Blobs, prefix: str, part: DeadLetters) -> Revival:
    """Write a manifest of one part's dead letters, with a fresh set of attempts each."""
    entries = [
        msgspec.structs.replace(entry, attempts=0, lost=0)
        for entry in blobs.get_manifest(part.manifest)
        if entry.ordinal in part.ordinals
    ]
    return Revival(
        part_id=part.part_id,
        manifest=blobs.put_manifest(f"{prefix}/{part.part_id}.manifest", entries),
        ordinals=frozenset(entry.ordinal for entry in entries),
        bytes=sum(entry.length for entry in entries),
    )
