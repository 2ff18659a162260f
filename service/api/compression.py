"""Content codings of answers, and which of them a client takes (RFC 9110, 8.4 and 12.5.3)."""

import zlib
from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol

from backports.zstd import ZstdCompressor

ZSTD_LEVEL = 3
GZIP_LEVEL = 1  # higher ones take several times the CPU for a tenth fewer bytes of JSONL
GZIP_FORMAT = 16 + zlib.MAX_WBITS


class Coding(StrEnum):
    """The codings that are spoken here, best first."""

    ZSTD = "zstd"
    GZIP = "gzip"
    IDENTITY = "identity"


def acceptable(header: str) -> list[Coding]:
    """The codings that an Accept-Encoding header allows, best first; none where it allows none.

    Whoever does not name `identity` takes it, but rather has what it names.
    """
    weights = dict(_weights(header))
    rest = weights.get("*", 0.0)
    weight = {coding: weights.get(coding, rest) for coding in Coding}
    if "*" not in weights and Coding.IDENTITY not in weights:
        weight[Coding.IDENTITY] = 0.0001  # below any other: weights have three digits
    # Sorting is stable: of equal weight, the one that stands first above.
    return sorted((c for c in Coding if weight[c] > 0), key=lambda coding: -weight[coding])


def _weights(header: str) -> Iterator[tuple[str, float]]:
    """(coding, weight) as listed; what has no valid weight is passed over."""
    for item in header.lower().split(","):
        name, _, parameter = item.partition(";")
        label, _, value = parameter.partition("=")
        try:
            weight = float(value) if label.strip() == "q" else 1.0
        except ValueError:
            continue
        yield name.strip().replace("x-gzip", "gzip"), weight


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def compressed(blocks: Iterator[bytes], coding: Coding) -> Iterator[bytes]:
    """The blocks in a coding, as one stream, in constant memory."""
    if coding is Coding.IDENTITY:
        yield from blocks
        return
    compressor: _Compressor = (
        ZstdCompressor(ZSTD_LEVEL)
        if coding is Coding.ZSTD
        else zlib.compressobj(GZIP_LEVEL, wbits=GZIP_FORMAT)
    )
    for block in blocks:
        if data := compressor.compress(block):
            yield data
    yield compressor.flush()
