"""Finding custom_ids that are used more than once, in constant memory.

Only a 64-bit hash of each custom_id is kept. When there are many, the hashes go to scratch space in
sorted runs. Equal hashes are only a suspicion: the caller compares the custom_ids themselves.
"""

import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO

from service.payloads.private import private_folder

RUN = 1 << 18
"""How many hashes stay in memory before they go to scratch space: 2 MB, or 12 MB while sorted."""
BUCKETS = 256
"""How many ranges of hashes are compared one after the other."""

_EDGES = [(bucket << 56) - (1 << 63) for bucket in range(1, BUCKETS)]


class Hashes:
    """The hashes of the custom_ids of one input. They differ between processes."""

    def __init__(self, scratch: Path | None = None) -> None:
        self._scratch = scratch
        self._run = array("q")
        self._file: IO[bytes] | None = None
        self._bounds: list[list[int]] = []
        """For each run: where its buckets begin in the file, and where the last one ends."""

    def add(self, custom_ids: Iterable[str]) -> None:
        self._run.extend(map(hash, custom_ids))
        if len(self._run) >= RUN:
            self._spill()

    def repeated(self, most: int) -> tuple[frozenset[int], int]:
        """Return up to `most` repeated hashes, and how many custom_ids repeat an earlier one.

        Call it once, after the last `add`.
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
                private_folder(self._scratch)
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
        """Yield the hashes of a bucket, run by run."""
        if self._file is None:
            yield self._run
            return
        for bounds in self._bounds:
            hashes = array("q")
            self._file.seek(bounds[bucket])
            hashes.frombytes(self._file.read(bounds[bucket + 1] - bounds[bucket]))
            yield hashes
