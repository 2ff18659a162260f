"""Taking requests in: one pass that checks every line, copies it, and cuts shards.

Nothing is sent anywhere before the whole input was found good.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from config.settings import Settings
from service.blobs import STORAGE_ERRORS, Blobs, BlobWriter
from service.errors import MOST_PROBLEMS, BadInput, HaulierError, Problem
from service.lines import LineError, read_request
from service.spec import Spec, canonical, may_read, place, request_lines
from service.work import Entry, Shard

MOST_MODELS = 64


class InputUnreadable(HaulierError):
    """What `input` points to is not there or must not be read."""


def open_input(url: str, roots: tuple[str, ...]) -> Iterator[bytes]:
    """The bytes behind a spec's `input`, in blocks. Raises InputUnreadable.

    The roots hold for where a link leads, too.
    """
    target = place(url)
    if target is None or not may_read(url, roots):
        raise InputUnreadable(f"input {url!r} does not lie under one of the allowed input roots")
    scheme, bucket, path = target
    if scheme == "file":
        real = Path(path).resolve()
        real_roots = tuple(
            Path(root[2]).resolve().as_uri()
            for root in map(place, roots)
            if root is not None and root[0] == "file"
        )
        if not may_read(real.as_uri(), real_roots):
            raise InputUnreadable(f"input {url!r} leads out of the allowed input roots")
        folder, name = real.parent.as_uri(), real.name
        if not real.is_file():
            raise InputUnreadable(f"input {url!r} is not a file that can be read")
    else:
        folder, name = f"s3://{bucket}", path.lstrip("/")
    try:
        yield from Blobs(folder, create=False).stream(name)
    except (OSError, *STORAGE_ERRORS) as error:
        raise InputUnreadable(f"input {url!r} cannot be read: {error}") from None


@dataclass(frozen=True)
class Taken:
    """An input that was taken in whole. `sha256` (hex) is over its lines, where asked for."""

    total: int
    shards: tuple[Shard, ...]
    sha256: str | None


@dataclass
class _Lane:
    """The requests of one model on their way into blobs."""

    number: int
    writer: BlobWriter
    entries: list[Entry] = field(default_factory=list)
    bytes: int = 0


def take_in(spec: Spec, blobs: Blobs, prefix: str, settings: Settings) -> Taken | None:
    """Take in the requests of a JSON spec; None where its `input` is still to be read.

    Raises BadInput.
    """
    if spec.requests is None:
        return None
    with Intake(
        blobs,
        prefix,
        spec.endpoint,
        shard_requests=settings.shard_requests,
        shard_bytes=settings.shard_bytes,
        hashed=spec.idempotency_key is not None,
    ) as intake:
        for line in request_lines(spec):
            intake.add(line, hash_as=canonical)
        return intake.finish()


class Intake:
    """Use as a context manager: `add` every line, then `finish`.

    `prefix` must be fresh: what is written below it becomes true only when a row names it.
    """

    def __init__(
        self,
        blobs: Blobs,
        prefix: str,
        endpoint: str,
        *,
        shard_requests: int,
        shard_bytes: int,
        hashed: bool = False,
    ) -> None:
        self._blobs = blobs
        self._prefix = prefix
        self._endpoint = endpoint
        self._shard_requests = shard_requests
        self._shard_bytes = shard_bytes
        self._hash = hashlib.sha256() if hashed else None
        self._stack = ExitStack()
        self._lanes: dict[str, _Lane] = {}
        self._shards: list[tuple[int, Shard]] = []
        self._seen: set[str] = set()
        self._line = 0
        self._total = 0
        self._problems: list[Problem] = []
        self._more = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(self, line: bytes, *, hash_as: Callable[[bytes], bytes] | None = None) -> None:
        """Take one line. Blank lines are passed over; a bad one is noted and refused at the end."""
        self._line += 1
        line = line.strip()
        if not line:
            return
        try:
            request = read_request(line, self._endpoint)
        except LineError as error:
            self._note(str(error))
            return
        if request.custom_id in self._seen:
            self._note(f"custom_id {request.custom_id!r} was used before")
            return
        self._seen.add(request.custom_id)
        self._total += 1
        if self._hash is not None:
            self._hash.update(hash_as(line) if hash_as is not None else line)
            self._hash.update(b"\n")
        if self._problems:
            return  # it will be refused as a whole: only further problems matter
        lane = self._lane(request.body.model)
        if lane is not None:
            self._store(lane, request.custom_id, line)

    def finish(self) -> Taken:
        """Close the blobs. Raises BadInput with everything that was wrong."""
        if not self._problems and not self._total:
            self._note("the input holds no requests", line=False)
        if self._problems:
            raise BadInput(self._problems, more=self._more)
        for lane in self._lanes.values():
            self._cut(lane)
        self._stack.close()
        self._shards.sort(key=lambda found: found[0])
        return Taken(
            self._total,
            tuple(shard for _, shard in self._shards),
            self._hash.hexdigest() if self._hash is not None else None,
        )

    def _note(self, message: str, *, line: bool = True) -> None:
        if len(self._problems) < MOST_PROBLEMS:
            self._problems.append(Problem(message, self._line if line else None))
        else:
            self._more += 1

    def _lane(self, model: str) -> _Lane | None:
        lane = self._lanes.get(model)
        if lane is None:
            if len(self._lanes) == MOST_MODELS:
                self._note(f"a job may use {MOST_MODELS} models; this one is one too many")
                return None
            number = len(self._lanes)
            name = f"{self._prefix}/input-{number}.jsonl"
            writer = self._stack.enter_context(self._blobs.writer(name))
            lane = self._lanes[model] = _Lane(number, writer)
        return lane

    def _store(self, lane: _Lane, custom_id: str, line: bytes) -> None:
        length = len(line) + 1
        if lane.entries and (
            len(lane.entries) == self._shard_requests or lane.bytes + length > self._shard_bytes
        ):
            self._cut(lane)
        lane.entries.append(Entry(custom_id, self._total - 1, lane.writer.size, length))
        lane.bytes += length
        lane.writer.write(line + b"\n")

    def _cut(self, lane: _Lane) -> None:
        name = f"{self._prefix}/shard-{len(self._shards)}.manifest"
        manifest_blob = self._blobs.put_manifest(name, lane.entries)
        model = next(model for model, known in self._lanes.items() if known is lane)
        self._shards.append(
            (
                lane.entries[0].ordinal,
                Shard(
                    model=model,
                    input_blob=lane.writer.name,
                    manifest_blob=manifest_blob,
                    requests=len(lane.entries),
                    bytes=lane.bytes,
                ),
            )
        )
        lane.entries = []
        lane.bytes = 0
