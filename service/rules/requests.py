"""Request lines: the JSONL that producers send."""

from typing import Annotated, Any, Literal

import msgspec

from service.rules.names import hidden_in, trouble_with

LINE_BYTES = 10_000_000
"""A line's most bytes (TOGETHER_API: 10 MB a line)."""

CHAT = "/v1/chat/completions"
AUDIO = ("/v1/audio/transcriptions", "/v1/audio/translations")
ENDPOINTS = (CHAT, *AUDIO)

CustomId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Model = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
"""Short enough for an index, which takes 2,704 bytes at most."""


class ChatBody(msgspec.Struct, gc=False):
    """The part of a chat request that Haulier checks. The rest must be JSON and is passed on."""

    model: Model


class AudioBody(msgspec.Struct, gc=False):
    model: Model
    file: Annotated[str, msgspec.Meta(pattern="^https?://")]


class ChatLine(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    custom_id: CustomId
    body: ChatBody


class AudioLine(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    custom_id: CustomId
    body: AudioBody
    method: Literal["FILE"]


RequestLine = ChatLine | AudioLine

_decoders: dict[str, msgspec.json.Decoder[Any]] = {
    CHAT: msgspec.json.Decoder(ChatLine),
    **{endpoint: msgspec.json.Decoder(AudioLine) for endpoint in AUDIO},
}


class LineError(ValueError):
    """Says what is wrong with a line, for the person who wrote it."""


def read_request(line: bytes, endpoint: str) -> RequestLine:
    """Read one request line. Raises LineError."""
    if len(line) > LINE_BYTES:
        raise LineError(f"is longer than {LINE_BYTES:,} bytes")
    if not line.isascii():
        try:
            line.decode()
        except UnicodeDecodeError as error:
            raise LineError(f"is not UTF-8 (byte {error.start + 1})") from None
    try:
        request: RequestLine = _decoders[endpoint].decode(line)
    except msgspec.ValidationError as error:
        raise LineError(_plain(str(error))) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise LineError(f"is not JSON ({error})") from None
    for what, name in (("custom_id", request.custom_id), ("model", request.body.model)):
        if trouble := trouble_with(name):
            raise LineError(f"{what} {name!r} {trouble}")
    return request


def read_requests(block: bytes, lines: list[bytes], endpoint: str) -> list[RequestLine] | None:
    """All requests of a block of lines (joined by LF, no LF at the end) at once.

    None where any line is not as it should be, or perhaps not: then read_request has the word.
    """
    if sum(map(len, map(bytes.strip, lines))) + len(lines) - 1 != len(block):
        return None  # there is space around a line
    if max(map(len, lines)) > LINE_BYTES:
        return None
    try:
        if not block.isascii():
            block.decode()
        requests: list[RequestLine] = list(map(_decoders[endpoint].decode, lines))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # All ids in one text: looking at each by itself would take several times as long.
    if hidden_in(" ".join([request.custom_id for request in requests])):
        return None
    if any(map(hidden_in, {request.body.model for request in requests})):
        return None
    return requests


def _plain(error: str) -> str:
    """msgspec's words, with the mend for what people get wrong most."""
    if "field `method`" in error or "$.method" in error:
        if "unknown field" in error:
            return "has a `method`; chat completions take none"
        return 'must have "method": "FILE" (audio endpoints need it)'
    if "unknown field" in error:
        return f"{error}; a request has `custom_id` and `body`"
    if "$.body.file" in error and "match" in error:
        return "body.file must be an http(s) URL"
    return error[0].lower() + error[1:] if error.startswith(("Object", "Expected")) else error


class LineSplitter:
    """Cuts blocks into lines without their end, at LF only (a JSON string may hold U+2028).

    A line that outgrows LINE_BYTES is cut short there, so that no input can fill the memory;
    it stays longer than the limit and is refused by its length.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, block: bytes) -> list[bytes]:
        """The lines that this block ends."""
        head, *lines = block.split(b"\n")
        if len(self._rest) <= LINE_BYTES:
            self._rest += head
        if not lines:
            return []
        first, self._rest = self._rest, lines.pop()
        return [first, *lines]

    def end(self) -> list[bytes]:
        """The last line, where it has no LF."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []
