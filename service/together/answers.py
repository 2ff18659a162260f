"""Reading the lines of the output and error files that Together returns."""

import json
from typing import Any

import msgspec


class Frame(msgspec.Struct, gc=False):
    """The parts of an output or error line that tell what became of its request."""

    custom_id: str
    response: "Response | None" = None
    error: Any = None


class Response(msgspec.Struct, gc=False):
    status_code: int = 200
    body: "ResponseBody | None" = None


class ResponseBody(msgspec.Struct, gc=False):
    usage: "LineUsage | None" = None
    error: Any = None
    choices: "list[Choice] | None" = None


class LineUsage(msgspec.Struct, gc=False):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Choice(msgspec.Struct, gc=False):
    """A choice without its message: the text is most of a line and is slow to decode."""

    finish_reason: str | None = None


class BareFrame(msgspec.Struct, gc=False):
    """A line whose other fields have unknown shapes: only its custom_id is certain."""

    custom_id: str
    response: "BareResponse | None" = None
    error: Any = None


class BareResponse(msgspec.Struct, gc=False):
    status_code: int = 200
    body: Any = None


class WithText(msgspec.Struct):
    """An answer with its text, for the few lines whose text matters."""

    response: "ResponseWithText"


class ResponseWithText(msgspec.Struct):
    body: "BodyWithText"


class BodyWithText(msgspec.Struct):
    choices: "list[ChoiceWithText]"


class ChoiceWithText(msgspec.Struct):
    finish_reason: str | None = None
    message: "Message | None" = None

    @property
    def is_empty(self) -> bool:
        text = self.message is not None and self.message.content
        return self.finish_reason == "length" and not text


class Message(msgspec.Struct):
    content: Any = None


_with_text = msgspec.json.Decoder(WithText)
_frame = msgspec.json.Decoder(Frame)
_bare = msgspec.json.Decoder(BareFrame)


def read_answer(line: bytes) -> Frame | None:
    """Read one line of an output or error file. Returns None if it has no legible custom_id."""
    try:
        if not line.isascii():
            line.decode()
        return _frame.decode(line)
    except msgspec.ValidationError:
        return _read_bare(line)
    except msgspec.DecodeError:
        return _read_halved(line)
    except (UnicodeDecodeError, RecursionError):
        return None


def _read_halved(line: bytes) -> Frame | None:
    """Read a line with half of a surrogate pair, or return None.

    A model's text may be cut in the middle of an emoji. JSON allows that, and the line is paid for.
    """
    if b"\\ud" not in line.lower():
        return None
    try:
        return msgspec.convert(json.loads(line), Frame)
    except (ValueError, RecursionError, msgspec.ValidationError):
        return None


def read_frames(lines: list[bytes]) -> list[Frame | None]:
    """Read many lines at once, each as `read_answer` does."""
    if all(map(bytes.isascii, lines)):
        try:
            return list(map(_frame.decode, lines))
        except (msgspec.DecodeError, RecursionError):
            pass  # at least one line is unusual
    return list(map(read_answer, lines))


def says_nothing(line: bytes) -> bool:
    """Whether the token limit cut an answer before it said anything."""
    try:
        answer = _with_text.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    return any(choice.is_empty for choice in answer.response.body.choices)


def _read_bare(line: bytes) -> Frame | None:
    """Read a line of an unknown shape. Returns None if it has no custom_id."""
    try:
        bare = _bare.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return None
    if bare.response is None:
        return Frame(bare.custom_id, error=bare.error)
    body = bare.response.body if isinstance(bare.response.body, dict) else {}
    return Frame(
        bare.custom_id,
        Response(bare.response.status_code, ResponseBody(error=body.get("error"))),
        bare.error,
    )
