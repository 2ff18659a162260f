"""Retrying failed requests of a finished job: their manifests are written before their rows."""

from collections.abc import Sequence
from uuid import UUID, uuid4

import msgspec

from service.payloads.blobs import Blobs
from service.rules.crashpoints import CrashPoint, reached
from service.store.revive import DeadLetters, Revival


def write_manifests(blobs: Blobs, job_id: UUID, found: Sequence[DeadLetters]) -> list[Revival]:
    """Write a manifest for each part's dead letters, with a fresh set of attempts for each."""
    prefix = f"jobs/{job_id}/{uuid4()}"
    revivals = [_revival(blobs, prefix, part) for part in found]
    reached(CrashPoint.RETRY_WRITTEN)
    return revivals


def rehearsed(found: Sequence[DeadLetters]) -> list[Revival]:
    """Return what to rehearse with: nothing is written, and old manifests stand for new ones."""
    return [
        Revival(
            part_id=part.part_id,
            manifest=part.manifest,
            ordinals=part.ordinals,
            bytes=len(part.ordinals),
        )
        for part in found
    ]


def _revival(blobs: Blobs, prefix: str, part: DeadLetters) -> Revival:
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
