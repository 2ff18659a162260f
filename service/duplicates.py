"""Finding custom_ids that are used more than once, in constant memory.

A 64-bit hash of each is kept, 8 bytes, and goes to scratch space in sorted runs when there are
many. Equal hashes only make a suspect: whoever asks confirms it on the text.
"""

import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise
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
        for hashes in self._buckets():
            distinct = len(set(hashes))
            if distinct == len(hashes):
                continue
            surplus += len(hashes) - distinct
            ordered = sorted(hashes)
            found.update(one for one, other in pairwise(ordered) if one == other)
            found = set(sorted(found)[:most])
        return frozenset(found), surplus

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115  see close
        run = array("q", sorted(self._run))
        start = self._file.tell()
        self._file.write(run)
        inner = [bisect_left(run, edge) for edge in _EDGES]
        self._bounds.append([start + 8 * at for at in (0, *inner, len(run))])
        self._run = array("q")

    def _buckets(self) -> Iterator["array[int]"]:
        if self._file is None:
            yield self._run
            return
        self._spill()
        for number in range(BUCKETS):
            bucket = array("q")
            for bounds in self._bounds:
                self._file.seek(bounds[number])
                bucket.frombytes(self._file.read(bounds[number + 1] - bounds[number]))
            yield bucket
