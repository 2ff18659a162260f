"""Sharding: the lines of a job, copied into a blob for each model, and cut into shards."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import accumulate, chain

from config.settings import Settings
from service.payloads.blobs import Destination, Writer
from service.rules.work import Entry, Shard

MOST_MODELS = 64
"""How many models the requests of one job may use."""
MOST_OPEN = 200_000
"""How many requests, over all models, may wait for their shard to be cut.

Beyond that, the fullest shard is cut.
"""


@dataclass
class _ModelShards:
    """The requests of one model: the blob that holds their lines, and the shard that is open.

    `entries` and `bytes` are those of the open shard.
    """

    model: str
    writer: Writer
    entries: list[Entry] = field(default_factory=list)
    bytes: int = 0


class Sharding:
    """Copies requests into a blob for each model, and cuts these into shards.

    The writers of the blobs are closed by `stack`. The first `canary` requests share no shard with
    others.
    """

    def __init__(
        self,
        blobs: Destination,
        prefix: str,
        settings: Settings,
        stack: ExitStack,
        *,
        canary: int,
    ) -> None:
        self._blobs = blobs
        self._prefix = prefix
        self._stack = stack
        self._shard_requests = settings.shard_requests
        self._shard_bytes = settings.shard_bytes
        self._canary = canary
        self._models: dict[str, _ModelShards] = {}
        self._shards: list[tuple[int, Shard]] = []

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Those that were cut, in input order."""
        return tuple(shard for _, shard in sorted(self._shards, key=lambda found: found[0]))

    def store(
        self, model: str, ids: Sequence[str], ordinals: Sequence[int], lines: Sequence[bytes]
    ) -> bool:
        """Store requests of one model, and cut a shard whenever it is full.

        Returns False if the job uses too many models.
        """
        shards = self._of_model(model)
        if shards is None:
            return False
        lengths = [len(line) + 1 for line in lines]
        ends = list(accumulate(lengths, initial=shards.writer.size))
        shards.writer.write(b"\n".join(lines) + b"\n")
        at = 0
        while at < len(ids):
            stop = self._fitting(shards, ends, at)
            here = slice(at, stop)
            shards.entries += map(Entry, ids[here], ordinals[here], ends[here], lengths[here])
            shards.bytes += ends[stop] - ends[at]
            at = stop
            if at < len(ids):
                self._cut(shards)
        if sum(len(shards.entries) for shards in self._models.values()) > MOST_OPEN:
            self._cut(max(self._models.values(), key=lambda shards: len(shards.entries)))
        return True

    def cut(self) -> None:
        """Close every open shard."""
        for shards in self._models.values():
            self._cut(shards)

    def entries(self, hashes: frozenset[int]) -> Iterator[Entry]:
        """Yield all requests whose custom_id has one of the hashes, in no order."""
        stored = (self._blobs.get_manifest(shard.manifest) for _, shard in self._shards)
        for entries in chain(stored, [shards.entries for shards in self._models.values()]):
            for entry in entries:
                if hash(entry.custom_id) in hashes:
                    yield entry

    def _of_model(self, model: str) -> _ModelShards | None:
        """Return the shards of a model. Returns None if the job uses too many models."""
        shards = self._models.get(model)
        if shards is None and len(self._models) < MOST_MODELS:
            name = f"{self._prefix}/input-{len(self._models)}.jsonl"
            writer = self._stack.enter_context(self._blobs.writer(name))
            shards = self._models[model] = _ModelShards(model, writer)
        return shards

    def _fitting(self, shards: _ModelShards, ends: list[int], at: int) -> int:
        """Return the index after the last line that fits into the open shard, from line `at` on.

        An empty shard takes a line of any size. `ends` are the offsets at which the lines begin,
        and at which the last one ends.
        """
        by_count = at + self._shard_requests - len(shards.entries)
        by_bytes = bisect_right(ends, ends[at] + self._shard_bytes - shards.bytes) - 1
        stop = min(by_count, by_bytes, len(ends) - 1)
        return max(stop, at if shards.entries else at + 1)

    def _cut(self, shards: _ModelShards) -> None:
        """Close the open shard, if it has requests."""
        if not shards.entries:
            return
        name = f"{self._prefix}/shard-{len(self._shards)}.manifest"
        shard = Shard(
            model=shards.model,
            input_blob=shards.writer.name,
            manifest=self._blobs.put_manifest(name, shards.entries),
            requests=len(shards.entries),
            bytes=shards.bytes,
            held=0 < self._canary <= shards.entries[0].ordinal,
        )
        self._shards.append((shards.entries[0].ordinal, shard))
        shards.entries = []
        shards.bytes = 0
