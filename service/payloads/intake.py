"""Taking requests in: one pass that checks every line, copies it, and cuts shards.

Haulier sends nothing to Together before the whole input has passed its checks.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from types import TracebackType
from typing import Self

from config.settings import Settings
from service.payloads.blobs import Destination
from service.payloads.duplicates import Hashes
from service.payloads.opening import Opening
from service.payloads.problems import LineNumbers, Problems
from service.payloads.sharding import MOST_MODELS, Sharding
from service.rules.budgets import Load, likely_cost, usd
from service.rules.encoding import BOM
from service.rules.requests import (
    AUDIO,
    LINE_BYTES,
    LineError,
    LineSplitter,
    RequestLine,
    read_request,
    read_requests,
)
from service.rules.spec import Spec, canonical, request_lines
from service.rules.work import Shard

MOST_BAD_LINES = 100_000
"""After so many bad lines an input is not read on."""
MOST_SUSPECTS = 1000
"""How many repeated hashes are checked by comparing the custom_ids themselves."""


@dataclass(frozen=True)
class Taken:
    """An input that was taken in whole.

    `sha256` (hex) is that of its lines, if it was asked for. `bundle_blob` is the blob that it
    shares with other inputs, if it shares one.
    """

    total: int
    shards: tuple[Shard, ...]
    sha256: str | None
    bundle_blob: str | None = None


def take_in(spec: Spec, blobs: Destination, prefix: str, settings: Settings) -> Taken | None:
    """Take in the requests of a JSON spec. Returns None if the spec has an `input` instead.

    Raises BadInput.
    """
    if spec.requests is None:
        return None
    with Intake(
        blobs,
        prefix,
        spec.endpoint,
        settings,
        hashed=spec.idempotency_key is not None,
        canary=spec.canary,
        max_cost=spec.max_cost,
    ) as intake:
        for line in request_lines(spec):
            intake.add(line, hash_as=canonical)
        return intake.finish()


class Intake:
    """Takes in one input. In a `with` block, `feed` every block or `add` every line, then `finish`.

    `prefix` must be fresh: a blob below it becomes true only when a row names it. Bad lines are
    collected and left out, and `finish` raises BadInput for all of them. `feed` raises BadInput
    where it is no use to read on. `most_bytes` bounds what a packed input may unpack to, and `keep`
    is called every now and then: a block may unpack to a thousand times its size.

    The first `canary` requests share no shard with others. An input that costs more than `max_cost`
    (USD), answers aside, is refused.
    """

    def __init__(
        self,
        blobs: Destination,
        prefix: str,
        endpoint: str,
        settings: Settings,
        *,
        hashed: bool = False,
        most_bytes: int | None = None,
        keep: Callable[[], None] = lambda: None,
        canary: int | None = None,
        max_cost: Decimal | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._canary = canary or 0
        self._max_cost = max_cost
        self._prices = settings.prices
        self._sha256 = hashlib.sha256() if hashed else None
        self._stack = ExitStack()
        unpacked = settings.unpacked_bytes
        self._opening = Opening(unpacked if most_bytes is None else min(unpacked, most_bytes))
        self._keep = keep
        self._splitter = LineSplitter()
        self._sharding = Sharding(blobs, prefix, settings, self._stack, canary=self._canary)
        self._ids = Hashes(settings.scratch)
        self._stack.callback(self._ids.close)
        self._places = LineNumbers()
        self._line = 0
        self._total = 0
        self._problems = Problems()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def feed(self, block: bytes) -> None:
        """Take a block of an input: JSONL, perhaps gzipped. A line may continue in the next block.

        Raises BadInput if the input is something else, or has too many bad lines.
        """
        for piece in self._opening.feed(block):
            self._feed(piece)
            self._keep()

    def add(self, line: bytes, *, hash_as: Callable[[bytes], bytes] | None = None) -> None:
        """Take one line. Skips a blank line; collects a bad one for `finish` to refuse."""
        self._line += 1
        found = self._read(line, self._line)
        if found is not None:
            request, stored = found
            self._hash(stored if hash_as is None else hash_as(stored))
            self._accept([request], [stored])

    def finish(self) -> Taken:
        """Cut the last shards and close the blobs. Raises BadInput with every problem."""
        for piece in self._opening.end():
            self._feed(piece)
        self._take(self._splitter.end())
        self._note_repeated()
        if not self._problems.count and not self._total:
            self._problems.note("the input holds no requests")
        self._problems.raise_any()
        self._sharding.cut()
        self._check_cost()
        self._stack.close()
        return Taken(
            self._total,
            self._sharding.shards,
            self._sha256.hexdigest() if self._sha256 is not None else None,
        )

    def _feed(self, piece: bytes) -> None:
        blank = self._splitter.skip_blank(piece)
        if blank is None:
            self._take(self._splitter.feed(piece))
        else:
            self._line += blank

    def _take(self, lines: list[bytes]) -> None:
        """Take many lines at once if all are good and need no change, else look at each."""
        if not lines:
            return
        block = b"\n".join(lines)
        requests = read_requests(block, lines, self._endpoint)
        if requests is not None:
            self._hash(block)
            self._line += len(lines)
            self._accept(requests, lines)
        else:
            self._take_each(lines)

    def _take_each(self, lines: list[bytes]) -> None:
        requests: list[RequestLine] = []
        stored: list[bytes] = []

        def accept() -> None:
            """Store those that stand in lines without a gap, up to the current one."""
            if requests:
                self._hash(b"\n".join(stored))
                self._accept(requests, stored)
                requests.clear()
                stored.clear()

        for line in lines:
            found = self._read(line, self._line + 1)
            if found is None:
                accept()
            else:
                requests.append(found[0])
                stored.append(found[1])
            self._line += 1
        accept()
        if self._problems.count > MOST_BAD_LINES:
            words = f"{self._problems.count:,} lines are bad: reading stopped at line"
            self._problems.note(f"{words} {self._line:,}")
            self._problems.raise_any()

    def _read(self, line: bytes, number: int) -> tuple[RequestLine, bytes] | None:
        """Read one line. Returns None for a blank one, and for a bad one, which is noted."""
        if len(line) <= LINE_BYTES and not line.strip().removeprefix(BOM):
            return None  # a longer one may have been cut, and what is left may be blank
        try:
            return read_request(line, self._endpoint)
        except LineError as error:
            self._problems.note(str(error), number)
            return None

    def _hash(self, lines: bytes) -> None:
        if self._sha256 is not None:
            self._sha256.update(lines)
            self._sha256.update(b"\n")

    def _accept(self, requests: Sequence[RequestLine], lines: list[bytes]) -> None:
        """Store good requests. The last of them stands in the current line."""
        first = self._canary - self._total
        if 0 < first < len(lines):
            line, self._line = self._line, self._line - len(lines) + first
            self._accept(requests[:first], lines[:first])
            self._line = line
            requests, lines = requests[first:], lines[first:]
        if self._total == self._canary:
            self._sharding.cut()
        ids = [request.custom_id for request in requests]
        ordinals = range(self._total, self._total + len(ids))
        self._places.note(self._total, self._line - len(ids) + 1)
        self._ids.add(ids)
        self._total += len(ids)
        models = [request.body.model for request in requests]
        if len(set(models)) == 1:
            self._store(models[0], ids, ordinals, lines)
            return
        groups: dict[str, list[int]] = {}
        for at, model in enumerate(models):
            groups.setdefault(model, []).append(at)
        for model, places in groups.items():
            self._store(
                model,
                [ids[at] for at in places],
                [ordinals[at] for at in places],
                [lines[at] for at in places],
            )

    def _store(
        self, model: str, ids: Sequence[str], ordinals: Sequence[int], lines: Sequence[bytes]
    ) -> None:
        if not self._sharding.store(model, ids, ordinals, lines):
            words = f"a job may use at most {MOST_MODELS} models: move the others to another job"
            self._problems.note(words, self._places.line_of(ordinals[0]))

    def _check_cost(self) -> None:
        """Raise BadInput if the requests alone cost too much. Audio does not tell its length."""
        if self._max_cost is None or self._endpoint in AUDIO:
            return
        today = datetime.now(UTC).date()
        cost = sum(
            (
                likely_cost(self._prices, Load(shard.model, shard.requests, shard.bytes), today)
                for shard in self._sharding.shards
            ),
            Decimal(0),
        )
        if cost > self._max_cost:
            self._problems.note(
                f"`max_cost` is {usd(self._max_cost)}, and the requests cost about {usd(cost)}"
                " before any answer; raise it, or submit fewer requests"
            )
            self._problems.raise_any()

    # --- repeated custom_ids ----------------------------------------------------------------------

    def _note_repeated(self) -> None:
        suspects, surplus = self._ids.repeated(MOST_SUSPECTS)
        if not suspects:
            return
        firsts: dict[str, int] = {}
        for entry in self._sharding.entries(suspects):
            known = firsts.get(entry.custom_id, entry.ordinal)
            firsts[entry.custom_id] = min(known, entry.ordinal)
        count = 0
        for entry in self._sharding.entries(suspects):
            if entry.ordinal != firsts[entry.custom_id]:
                line = self._places.line_of(entry.ordinal)
                self._problems.note(f"custom_id {entry.custom_id!r} was used before", line)
                count += 1
        if len(suspects) == MOST_SUSPECTS:
            # Too many to compare: count the rest by their hashes.
            self._problems.count += max(surplus - count, 0)
