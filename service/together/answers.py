"""Answer lines: the JSONL of the output and error files that Together returns."""

import json
from typing import Any

import msgspec


class Frame(msgspec.Struct, gc=False):
    """The parts of an output or error line that decide what became of its request."""

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
    """What it says is not looked at here: texts are most of a line, and to decode them most of
    the work."""

    finish_reason: str | None = None


class BareFrame(msgspec.Struct, gc=False):
    """A line whose extras have shapes nobody has seen: only its identity is sure."""

    custom_id: str
    response: "BareResponse | None" = None
    error: Any = None


class BareResponse(msgspec.Struct, gc=False):
    status_code: int = 200
    body: Any = None


class Said(msgspec.Struct):
    """What an answer says, for the few of which that matters."""

    response: "SaidResponse"


class SaidResponse(msgspec.Struct):
    body: "SaidBody"


class SaidBody(msgspec.Struct):
    choices: "list[SaidChoice]"


class SaidChoice(msgspec.Struct):
    finish_reason: str | None = None
    message: "SaidMessage | None" = None

    @property
    def is_empty(self) -> bool:
        said = self.message is not None and self.message.content
        return self.finish_reason == "length" and not said


class SaidMessage(msgspec.Struct):
    content: Any = None


_said = msgspec.json.Decoder(Said)
_frame = msgspec.json.Decoder(Frame)
_bare = msgspec.json.Decoder(BareFrame)


def read_answer(line: bytes) -> Frame | None:
    """One line of an output or error file; None where it is broken beyond its custom_id."""
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
    """A line with half of a surrogate pair: a model's text may be cut in the middle of an emoji.

    JSON allows that, and the line is paid for.
    """
    if b"\\ud" not in line.lower():
        return None
    try:
        return msgspec.convert(json.loads(line), Frame)
    except (ValueError, RecursionError, msgspec.ValidationError):
        return None


def read_frames(lines: list[bytes]) -> list[Frame | None]:
    """The same for many lines at once."""
    if all(map(bytes.isascii, lines)):
        try:
            return list(map(_frame.decode, lines))
        except (msgspec.DecodeError, RecursionError):
            pass  # one of them is not as the others
    return list(map(read_answer, lines))


def says_nothing(line: bytes) -> bool:
    """Whether an answer was cut by the token limit before it said anything."""
    try:
        said = _said.decode(line)
    except (msgspec.DecodeError, RecursionError):
        return False
    return any(choice.is_empty for choice in said.response.body.choices)


def _read_bare(line: bytes) -> Frame | None:
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
