"""Bare loops over request lines: what nothing that takes requests in can undercut.

No Haulier in here. `best` is held against Intake: it validates, finds duplicates, copies, hashes
and cuts, as fast as we know how to.
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Annotated

import msgspec

BLOCK = 1 << 20
SHARD = 10_000
SHARD_BYTES = 100_000_000


class Body(msgspec.Struct, gc=False):
    model: Annotated[str, msgspec.Meta(min_length=1)]


class Line(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    body: Body


def iterate(path: str) -> int:
    """Binary lines with a large buffer."""
    with Path(path).open("rb", buffering=BLOCK) as file:
        return sum(1 for _ in file)


def copy(path: str, target: str) -> int:
    """The same, and each line written."""
    count = 0
    with (
        Path(path).open("rb", buffering=BLOCK) as file,
        Path(target).open("wb", buffering=BLOCK) as out,
    ):
        for line in file:
            out.write(line)
            count += 1
    return count


def decode(path: str) -> int:
    """The same, and each line validated."""
    decode_line = msgspec.json.Decoder(Line).decode
    count = 0
    with Path(path).open("rb", buffering=BLOCK) as file:
        for line in file:
            decode_line(line)
            count += 1
    return count


def best(path: str, target: str) -> int:
    """Validate, find duplicates, copy, SHA-256, cut into shards (byte ranges of the copy)."""
    decode_line = msgspec.json.Decoder(Line).decode
    digest = sha256()
    hashes: set[int] = set()
    models: set[str] = set()
    shards: list[tuple[int, int]] = []
    total = in_shard = start = size = 0
    with Path(target).open("wb", buffering=0) as out:
        for block in _whole_lines(path):
            if not block.isascii():
                block.decode()
            lines = block.splitlines() if b"\r" not in block else block[:-1].split(b"\n")
            requests = list(map(decode_line, lines))
            ids = [request.custom_id for request in requests]
            hashes.update(map(hash, ids))
            total += len(ids)
            if len(hashes) != total:
                raise ValueError("a custom_id may have been used before: compare the texts")
            models.update({request.body.model for request in requests})
            digest.update(block)
            out.write(block)
            in_shard += len(ids)
            if in_shard >= SHARD or size + len(block) - start > SHARD_BYTES:
                over = max(in_shard - SHARD, 0)
                end = size + len(block) - sum(map(len, lines[len(lines) - over :])) - over
                shards.append((start, end - start))
                start, in_shard = end, over
            size += len(block)
    shards.append((start, size - start))
    return total


def _whole_lines(path: str) -> Iterator[bytes]:
    """Blocks that end where a line ends."""
    rest = b""
    with Path(path).open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            end = block.rfind(b"\n") + 1
            if end:
                yield rest + block[:end]
                rest = block[end:]
            else:
                rest += block
    if rest:
        yield rest + b"\n"
