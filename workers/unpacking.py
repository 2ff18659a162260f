"""Compressed messages, unpacked within bounds: a few kilobytes may stand for gigabytes."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from kombu import compression

from service.rules.spec import SPEC_BYTES

MOST = 2 * SPEC_BYTES
"""What a message may have when it is unpacked, in bytes."""

_UNPACKERS: dict[str, Callable[[], Any]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
}


def bound() -> None:
    """Let kombu unpack no more than that, in this process. What it refuses will be rejected."""
    for content_type in compression.encoders():
        encoder, _ = compression.get_encoder(content_type)
        compression.register(encoder, _bounded(_UNPACKERS.get(content_type)), content_type)


def _bounded(unpacker: Callable[[], Any] | None) -> Callable[[bytes], bytes]:
    def unpack(body: bytes) -> bytes:
        if unpacker is None:
            raise ValueError("the message's compression is not one of gzip, bzip2 and lzma")
        unpacked: bytes = unpacker().decompress(body, MOST + 1)
        if len(unpacked) > MOST:
            raise ValueError(f"the message has more than {MOST:,} bytes when it is unpacked")
        return unpacked

    return unpack
