"""Reads what a message of kombu's is: its headers, its properties, and the bytes of its body.

Whoever can write to the broker can write anything, and clients in other languages leave out what
they like. So each part is read by itself, and what is wrong is told in words.
"""

import base64
import bz2
import json
import lzma
import re
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from backports.zstd import ZstdDecompressor, ZstdError

from service.rules.errors import BadInput, Problem
from service.rules.spec import ENVELOPE_BYTES, SPEC_BYTES

UNPACKED_BYTES = 2 * SPEC_BYTES
"""The most bytes of a message's body after it is unpacked."""
MESSAGE_BYTES = 2 * UNPACKED_BYTES
"""The most bytes of a message as it stands in the queue: a body may be base64."""

_JSON = frozenset({"application/json", "text/json", "application/x-json"})
_PLAIN = frozenset({"utf-8", "utf8", "utf_8", "us-ascii", "ascii", "binary", "8bit", "base64", ""})
"""Ways to say that bytes are as they are."""
# Python knows more, and some of them take minutes for a large text.
_CHARSETS = re.compile(
    r"utf[-_]?(16|32)([-_]?[lb]e)?|iso[-_]?8859[-_]\d{1,2}|latin[-_]?1|(windows-|cp)125\d", re.ASCII
)


class Unreadable(Exception):
    """A message that nobody can be told about: it has no task id. Says why."""


@dataclass(frozen=True)
class Envelope:
    """The parts of a message as they were written."""

    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    body: object
    kind: object
    """Its content type."""
    encoding: object
    """Its content encoding: in kombu's messages a charset."""

    @property
    def size(self) -> int:
        """Bytes of the body in the queue."""
        return len(self.body) if isinstance(self.body, str) else 0

    def content(self) -> bytes:
        """Return the bytes of the body as UTF-8, decoded and unpacked. Raises BadInput."""
        charset = self._charset()
        data, packed = self._decoded(), self.headers.get("compression")
        if packed is None and charset in _UNPACKERS:
            packed, charset = charset, ""
        if packed is not None:
            data = _unpacked(data, packed)
        if charset in _PLAIN:
            return data
        if _CHARSETS.fullmatch(charset):
            with suppress(LookupError, ValueError):
                return data.decode(charset).encode()
        raise bad(f"the body is not text in the charset {charset[:100]!r}: use UTF-8")

    def _charset(self) -> str:
        kind = self.kind if self.kind is not None else "application/json"
        media, *parameters = str(kind).split(";") if isinstance(kind, str) else ("",)
        if media.strip().lower() not in _JSON:
            raise bad(f"the message is {storable(kind)[:100]}, not application/json")
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "charset":
                return storable(value).strip("\"' \t").lower()
        return storable(self.encoding or "").strip().lower()

    def _decoded(self) -> bytes:
        if not isinstance(self.body, str):
            raise bad("the message has no body, or one that is not text")
        said = self.properties.get("body_encoding")
        encoding = storable("" if said is None else said).lower()
        if encoding not in _PLAIN:
            raise bad(f"body_encoding is {encoding[:100]}, not base64 or utf-8")
        text = self.body.lstrip("\ufeff \t\r\n")
        # JSON of a task begins with a bracket, which base64 knows nothing of.
        if encoding != "base64" and (text.startswith(("[", "{")) or said is not None):
            return self.body.encode()
        try:
            return base64.b64decode(self.body)
        except ValueError as error:
            raise bad(f"the body cannot be decoded: {error}") from None


def read_envelope(raw: bytes) -> Envelope:
    """Return the parts of a message. Raises Unreadable if it is none."""
    if len(raw) > MESSAGE_BYTES:
        raise Unreadable(f"it has {len(raw):,} bytes")
    try:
        written = _written(raw)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Unreadable(f"it is not JSON: {error}") from None
    headers, properties = _mapping(written, "headers"), _mapping(written, "properties")
    return Envelope(
        headers=headers,
        properties=properties,
        body=written.get("body"),
        kind=_first(written.get("content-type"), properties.get("content_type")),
        encoding=_first(written.get("content-encoding"), properties.get("content_encoding")),
    )


def bad(words: str) -> BadInput:
    """Return the refusal of a message."""
    return BadInput([Problem(words)])


def storable(header: object) -> str:
    """Return a header as text that Postgres takes, without NULs and lone surrogates."""
    return str(header).replace("\x00", "").encode(errors="replace").decode()


def _first(*values: object) -> object:
    return next((value for value in values if value is not None), None)


def _mapping(written: dict[str, Any], name: str) -> dict[str, Any]:
    found = written.get(name)
    return found if isinstance(found, dict) else {}


# A few bytes of JSON can become an object of a hundred. So all is kept as it was written, but for
# what is known to be small: a message that filled the memory would come again to the next inbox.


class _Written(msgspec.Struct):
    """The parts of a message."""

    body: msgspec.Raw = msgspec.Raw(b"null")
    headers: msgspec.Raw = msgspec.Raw(b"null")
    properties: msgspec.Raw = msgspec.Raw(b"null")
    content_type: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"null"), name="content-type")
    content_encoding: msgspec.Raw = msgspec.field(
        default=msgspec.Raw(b"null"), name="content-encoding"
    )


def _written(raw: bytes) -> dict[str, Any]:
    """Return the parts of a message. Raises Unreadable, ValueError and what msgspec raises."""
    if len(raw) <= ENVELOPE_BYTES:
        found = json.loads(raw)
        if not isinstance(found, dict):
            raise Unreadable("it is not a JSON object")
        return found
    written = msgspec.json.decode(raw, type=_Written)
    others = {
        "headers": written.headers,
        "properties": written.properties,
        "content-type": written.content_type,
        "content-encoding": written.content_encoding,
    }
    if sum(memoryview(other).nbytes for other in others.values()) > ENVELOPE_BYTES:
        raise Unreadable(f"it has more than {ENVELOPE_BYTES:,} bytes besides its body")
    is_text = bytes(memoryview(written.body)[:1]) == b'"'
    return {
        "body": json.loads(bytes(written.body)) if is_text else None,
        **{name: json.loads(bytes(other)) for name, other in others.items()},
    }


def _zlib() -> Any:
    return zlib.decompressobj(wbits=47)  # zlib's own frame, or gzip's


# By the content types that Celery writes, and the names that its users give them.
_BY_NAMES: dict[tuple[str, ...], Callable[[], Any]] = {
    ("application/x-gzip", "application/gzip", "gzip", "zlib", "deflate"): _zlib,
    ("application/x-bz2", "bzip2", "bzip", "bz2"): bz2.BZ2Decompressor,
    ("application/x-lzma", "lzma", "xz"): lzma.LZMADecompressor,
    ("application/zstd", "zstd", "zstandard"): ZstdDecompressor,
}
_UNPACKERS = {name: unpacker for names, unpacker in _BY_NAMES.items() for name in names}


def _unpacked(data: bytes, kind: object) -> bytes:
    """Return what is packed, if it has no more than UNPACKED_BYTES. Raises BadInput.

    A few kilobytes may unpack to gigabytes.
    """
    unpacker = _UNPACKERS.get(kind.lower()) if isinstance(kind, str) else None
    if unpacker is None:
        raise bad(
            f"the message is compressed with {storable(kind)[:100]}: use gzip, bzip2, lzma or zstd"
        )
    try:
        unpacked: bytes = unpacker().decompress(data, UNPACKED_BYTES + 1)
    except (OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, ZstdError) as error:
        raise bad(f"the body cannot be unpacked: {error}") from None
    if len(unpacked) > UNPACKED_BYTES:
        raise bad(f"the unpacked message has more than {UNPACKED_BYTES:,} bytes")
    return unpacked
