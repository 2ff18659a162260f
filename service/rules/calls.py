"""Calls: an ordinary request to a model, read so that it can travel in a batch."""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from service.rules.errors import BadInput, Problem
from service.rules.requests import CHAT, LINE_BYTES, LineError, read_request
from service.rules.spec import canonical

CUSTOM_ID = "call"
"""What the one request of a call is named, so that equal calls are equal submissions."""

_OF_THE_CONNECTION = ("stream", "stream_options")
"""The fields that say how the answer is sent. No batch takes them."""

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True)
class Asked:
    """A call: its request line, and whether its answer is to be streamed.

    `digest` is the SHA-256 of its endpoint and content, whatever the order of its keys.
    """

    line: bytes
    digest: bytes
    is_streamed: bool


def read_call(endpoint: str, data: bytes | bytearray) -> Asked:
    """Read the body of a call. Raises BadInput."""
    if len(data) > LINE_BYTES:
        raise BadInput([Problem(f"the body may have {LINE_BYTES:,} bytes")], too_large=True)
    try:
        fields = _fields.decode(data)
        is_streamed = _flag(fields.get("stream"))
    except UnicodeDecodeError as error:
        raise BadInput([Problem(f"the body is not UTF-8 (byte {error.start + 1})")]) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput([Problem(f"the body is not a JSON object: {error}")]) from None
    if is_streamed and endpoint != CHAT:
        raise BadInput([Problem("`stream`: only chat completions are streamed; leave it out")])
    for name in _OF_THE_CONNECTION:
        fields.pop(name, None)
    line = _line(endpoint, fields)
    try:
        read_request(line, endpoint)
    except LineError as error:
        raise BadInput([Problem(_plain(str(error)))]) from None
    digest = hashlib.sha256(endpoint.encode() + b"\n" + canonical(line)).digest()
    return Asked(line, digest, is_streamed)


def _line(endpoint: str, body: dict[str, msgspec.Raw]) -> bytes:
    line: dict[str, Any] = {"custom_id": CUSTOM_ID}
    if endpoint != CHAT:
        line["method"] = "FILE"
    return msgspec.json.encode({**line, "body": body})


def _flag(value: msgspec.Raw | None) -> bool:
    if value is None:
        return False
    try:
        return msgspec.json.decode(value, type=bool | None) or False
    except msgspec.ValidationError:
        raise BadInput([Problem("`stream` is true or false")]) from None


def _plain(error: str) -> str:
    """The words for a line, said of a body."""
    return error.replace("`$.body`", "the body").replace("$.body.", "").replace("body.file", "file")
