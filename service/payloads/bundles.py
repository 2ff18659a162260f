"""Bundles: small specs that arrive together share one blob, so that one write makes all durable.

A bundle holds request lines in the order in which they were written. Only the rows know what stands
where: a manifest gives the offsets of its lines, and stands in the row of its part, or else in the
bundle, too.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Self
from uuid import UUID, uuid4

from config.settings import Settings
from service.payloads.blobs import INLINE, Blobs, packed, place_of, range_of, unpacked
from service.payloads.intake import Taken, take_in
from service.rules.errors import BadInput
from service.rules.spec import Spec
from service.rules.work import Entry, Manifest

SMALL_BYTES = 64_000
"""The most bytes of request lines that a spec may have to share a bundle."""
BUNDLE_BYTES = 8_000_000
"""The size at which a bundle is full and is stored."""
BUNDLE_SPECS = 500
"""The most specs to pass to `take_in_together` at once, since one transaction stores them."""


class Bundle:
    """Collects what specs would write to blob storage, until `store` writes it as one blob."""

    def __init__(self) -> None:
        self.name = f"pages/{uuid4()}"
        self._data = bytearray()

    @property
    def size(self) -> int:
        return len(self._data)

    @contextmanager
    def writer(self, _name: str) -> Iterator[Self]:
        """Write at the end of the bundle, whatever the name."""
        yield self

    def write(self, data: bytes) -> None:
        self._data += data

    def put_manifest(self, _name: str, entries: list[Entry]) -> Manifest:
        data = packed(entries)
        if len(data) <= INLINE:
            return data
        name = range_of(self.name, self.size, len(data))
        self.write(data)
        return name

    def get_manifest(self, manifest: Manifest) -> list[Entry]:
        if isinstance(manifest, bytes):
            return unpacked(manifest)
        _, offset, length = place_of(manifest)
        return unpacked(self._data[offset : None if length is None else offset + length])

    def take_in(self, spec: Spec, settings: Settings) -> Taken | None:
        """Take in the requests of a spec. Raises BadInput, and leaves the bundle unchanged then."""
        before = self.size
        try:
            taken = take_in(spec, self, self.name, settings)
        except BadInput:
            del self._data[before:]
            raise
        return None if taken is None else replace(taken, bundle_blob=self.name)

    def store(self, blobs: Blobs) -> None:
        """Write the bundle, unless it is empty."""
        if self._data:
            blobs.put(self.name, bytes(self._data))


def take_in_together(
    specs: Sequence[tuple[UUID, Spec]], blobs: Blobs, settings: Settings
) -> list[Taken | BadInput | None]:
    """Take in specs, given with the ids of their jobs. Small specs share bundles.

    Returns for each spec what `take_in` returns or the BadInput that it raises. All is durable on
    return. If blob storage raises an error, no spec was taken in.
    """
    answers: list[Taken | BadInput | None] = []
    bundle = Bundle()
    for job_id, spec in specs:
        try:
            if is_small(spec):
                answers.append(bundle.take_in(spec, settings))
            else:
                answers.append(take_in(spec, blobs, f"jobs/{job_id}/{uuid4()}", settings))
        except BadInput as error:
            answers.append(error)
        if bundle.size >= BUNDLE_BYTES:
            bundle.store(blobs)
            bundle = Bundle()
    bundle.store(blobs)
    return answers


def is_small(spec: Spec) -> bool:
    return sum(map(len, spec.requests or [])) <= SMALL_BYTES
