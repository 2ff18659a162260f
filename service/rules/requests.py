"""Request lines: the JSONL that producers send."""

import re
from typing import Annotated, Any, Literal

import msgspec

from service.rules.encoding import BOM, NotUtf8, check_utf8, json_trouble
from service.rules.names import hidden_in, trouble_with

LINE_BYTES = 10_000_000
"""A line's most bytes (TOGETHER_API: 10 MB a line)."""

SHORT = 1000
"""Bytes of a line that are quickly looked at."""

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


class _Written(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A line as OpenAI's Batch API takes it, which most tools write. A null counts as left out."""

    custom_id: msgspec.Raw
    body: msgspec.Raw
    method: str | None = None
    url: str | None = None


_written = msgspec.json.Decoder(_Written)
_HOST = re.compile("^https?://[^/?#]*", re.IGNORECASE)

_decoders: dict[str, msgspec.json.Decoder[Any]] = {
    CHAT: msgspec.json.Decoder(ChatLine),
    **{endpoint: msgspec.json.Decoder(AudioLine) for endpoint in AUDIO},
}


class LineError(ValueError):
    """Says what is wrong with a line, for the person who wrote it."""


def read_request(line: bytes, endpoint: str) -> tuple[RequestLine, bytes]:
    """Read one request line. Returns it with the line to store and to send. Raises LineError.

    That is the line itself, without space around it, unless it has another shape (`_stored`).
    """
    if len(line) > LINE_BYTES:
        raise LineError(f"is longer than {LINE_BYTES:,} bytes")
    stored = line.strip().removeprefix(BOM).strip()  # files with marks, one behind the other
    try:
        check_utf8(line)
        try:
            request: RequestLine = _decoders[endpoint].decode(stored)
        except msgspec.ValidationError:
            stored = _stored(stored, endpoint)
            request = _decoders[endpoint].decode(stored)
    except NotUtf8 as error:
        raise LineError(str(error)) from None
    except msgspec.ValidationError as error:
        raise LineError(_plain(str(error))) from None
    except (msgspec.DecodeError, RecursionError) as error:
        # What could not be decoded is what was written: the other shape of it is JSON.
        skipped = max(line.find(stored), 0)
        raise LineError(json_trouble(stored, error, skipped=skipped)) from None
    for what, name in (("custom_id", request.custom_id), ("model", request.body.model)):
        if trouble := trouble_with(name):
            raise LineError(f"{what} {name!r} {trouble}")
    return request, stored


def _stored(line: bytes, endpoint: str) -> bytes:
    """Return a line in the shape in which Together takes it, from the one that OpenAI takes.

    Raises LineError if it is meant for something else, and what msgspec raises.
    """
    written = _written.decode(line)
    method, url = written.method, written.url
    if method is not None and method.upper() != "POST" and (endpoint == CHAT or method != "FILE"):
        raise LineError(
            f'has "method": {_quoted(method)}; leave it out, or write "POST"'
            + ("" if endpoint == CHAT else ' or "FILE"')
        )
    if url is not None and endpoint_of(url) != endpoint:
        raise LineError(
            f'has "url": {_quoted(url)}, and the endpoint of the job is {endpoint};'
            " a job has one endpoint: leave it out, or put it into another job"
        )
    is_file = endpoint != CHAT and (method is not None or url is not None)
    between = b',"method":"FILE","body":' if is_file else b',"body":'
    return b'{"custom_id":' + bytes(written.custom_id) + between + bytes(written.body) + b"}"


def endpoint_of(url: str) -> str:
    """Return the endpoint that the `url` of a line means: a path, or a URL with any host.

    The path may lack `/v1`, as behind a base URL, and may end in a slash.
    """
    path = _HOST.sub("", url, count=1).strip("/")
    return f"/{path}" if path.startswith("v1/") else f"/v1/{path}"


def _quoted(text: str) -> str:
    return msgspec.json.encode(text if len(text) <= 100 else f"{text[:100]}…").decode()


def read_requests(block: bytes, lines: list[bytes], endpoint: str) -> list[RequestLine] | None:
    """All requests of a block of lines (joined by LF, no LF at the end) at once.

    None where any line is not as it should be, or perhaps not, or has another shape: then
    read_request has the word. What is stored of the lines that are read here is each as it is.
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
    if "required field `method`" in error:
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

    def skip_blank(self, block: bytes) -> int | None:
        """The number of lines that a blank block ends; what it leaves over counts to the next.

        None, and nothing is done, unless all these lines are blank: then `feed` cuts them. A few
        bytes of gzip are millions of blank lines, which would take minutes to cut.
        """
        if not block.isspace() or len(block) > LINE_BYTES - SHORT or len(self._rest) > SHORT:
            return None
        ended = block.count(b"\n")
        if not ended or (self._rest and not self._rest.isspace()):
            return None
        self._rest = block[block.rindex(b"\n") + 1 :]
        return ended

    def end(self) -> list[bytes]:
        """The last line, where it has no LF."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []
