"""Calls: an ordinary request to a model, read so that it can travel in a batch."""

import hashlib
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from service.rules.errors import BadInput, Problem
from service.rules.requests import CHAT, LINE_BYTES, LineError, read_request
from service.rules.shared_ids import shared_ids
from service.rules.spec import canonical

_OF_THE_CONNECTION = ("stream", "stream_options")
"""The fields that say how the answer is sent. No batch takes them."""

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True)
class Asked:
    """A call: what a batch is to send, and whether its answer is to be streamed.

    `digest` is the SHA-256 of its endpoint and content, whatever the order of its keys.
    """

    endpoint: str
    body: bytes
    digest: bytes
    is_streamed: bool

    def line(self, job_id: UUID, key: str | None) -> bytes:
        """Return its request line. Calls with one key are one submission: they have equal lines.

        The custom_id of any other tells whose it is, as in batches that several jobs share.
        """
        if key is None:
            (custom_id,) = shared_ids(job_id, [0])
        else:
            custom_id = f"call-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
        return _line(self.endpoint, custom_id, self.body)


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
    content = msgspec.json.encode(fields)
    try:
        read_request(_line(endpoint, "call", content), endpoint)
    except LineError as error:
        raise BadInput([Problem(_plain(str(error)))]) from None
    digest = hashlib.sha256(endpoint.encode() + b"\n" + canonical(content)).digest()
    return Asked(endpoint, content, digest, is_streamed)


def _line(endpoint: str, custom_id: str, body: bytes) -> bytes:
    line: dict[str, Any] = {"custom_id": custom_id}
    if endpoint != CHAT:
        line["method"] = "FILE"
    return msgspec.json.encode({**line, "body": msgspec.Raw(body)})


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
