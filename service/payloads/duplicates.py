"""Finding custom_ids that are used more than once, in constant memory.

A 64-bit hash of each is kept, 8 bytes, and goes to scratch space in sorted runs when there are
many. Equal hashes only make a suspect: whoever asks confirms it on the text.
"""

import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO

RUN = 1 << 18
"""Hashes that are kept in memory before they go to scratch space: 2 MB, 12 MB while sorted."""
BUCKETS = 256
"""Parts of the space of hashes that are looked at one after the other."""

_EDGES = [(bucket << 56) - (1 << 63) for bucket in range(1, BUCKETS)]


class Hashes:
    """The hashes of one input's custom_ids. They mean nothing to another process."""

    def __init__(self, scratch: Path | None = None) -> None:
        self._scratch = scratch
        self._run = array("q")
        self._file: IO[bytes] | None = None
        self._bounds: list[list[int]] = []
        """Of each run, where in the file its buckets begin, and where the last one ends."""

    def add(self, custom_ids: Iterable[str]) -> None:
        self._run.extend(map(hash, custom_ids))
        if len(self._run) >= RUN:
            self._spill()

    def repeated(self, most: int) -> tuple[frozenset[int], int]:
        """Up to `most` hashes that are there more than once, and how many ids too many there are.

        Nothing may be added afterwards.
        """
        found: set[int] = set()
        surplus = 0
        self._spill_rest()
        for bucket in range(BUCKETS if self._file is not None else 1):
            seen: set[int] = set()
            count = 0
            for hashes in self._read(bucket):
                seen.update(hashes)
                count += len(hashes)
            surplus += count - len(seen)
            if count == len(seen):
                continue
            for one in chain.from_iterable(self._read(bucket)):
                if one in seen:
                    seen.remove(one)
                elif len(found) < most:
                    found.add(one)
        return frozenset(found), surplus

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _spill(self) -> None:
        if self._file is None:
            if self._scratch is not None:
                self._scratch.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115  see close
        run = array("q", sorted(self._run))
        start = self._file.tell()
        self._file.write(run)
        inner = [bisect_left(run, edge) for edge in _EDGES]
        self._bounds.append([start + 8 * at for at in (0, *inner, len(run))])
        self._run = array("q")

    def _spill_rest(self) -> None:
        if self._file is not None:
            self._spill()

    def _read(self, bucket: int) -> Iterator["array[int]"]:
        """The hashes of a bucket, run by run."""
        if self._file is None:
            yield self._run
            return
        for bounds in self._bounds:
            hashes = array("q")
            self._file.seek(bounds[bucket])
            hashes.frombytes(self._file.read(bounds[bucket + 1] - bounds[bucket]))
            yield hashes
