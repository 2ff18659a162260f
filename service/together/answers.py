"""Reading the lines of the output and error files that Together returns."""

from typing import Annotated, Any

import msgspec

from service.together.lenient import count, number, read_json

MOST_TOKENS = 10**9
"""The most tokens that one answer counts for, so that no sum outgrows what Postgres holds."""


Tokens = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]


class Frame(msgspec.Struct, gc=False):
    """The parts of an output or error line that tell what became of its request."""

    custom_id: str
    response: "Response | None" = None
    error: Any = None


class Response(msgspec.Struct, gc=False):
    status_code: int | None = None
    body: "ResponseBody | None" = None


class ResponseBody(msgspec.Struct, gc=False):
    usage: "LineUsage | None" = None
    error: Any = None
    choices: "list[Choice] | None" = None
    text: Any = None
    """A transcript. Of silence it is empty, but there."""

    @property
    def is_empty(self) -> bool:
        """Whether it holds no answer."""
        return not self.choices and self.text is None

    @property
    def is_cut(self) -> bool:
        """Whether the token limit cut an answer."""
        for choice in self.choices or ():  # noqa: SIM110  three times as fast as any()
            if choice.finish_reason == "length":
                return True
        return False


class LineUsage(msgspec.Struct, gc=False):
    prompt_tokens: Tokens = 0
    completion_tokens: Tokens = 0
    total_tokens: Tokens = 0


class Choice(msgspec.Struct, gc=False):
    """A choice without its message: the text is most of a line and is slow to decode."""

    finish_reason: str | None = None


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


def read_answer(line: bytes) -> Frame | None:
    """Read one line of an output or error file, leniently.

    Returns None if it has no legible custom_id. A frame may still say nothing (`tells`).
    """
    try:
        if not line.isascii():
            line.decode()
        return _frame.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return _frame_of(read_json(line))
    except (ValueError, RecursionError):
        return None


def answer_of(frame: Frame) -> ResponseBody | None:
    """Return the body of a success. A status that cannot be read decides nothing."""
    response = frame.response
    if response is None or frame.error:
        return None
    status, body = response.status_code, response.body
    if body is None or body.error or not (status is None or 200 <= status < 300):
        return None
    return body


def tells(frame: Frame) -> bool:
    """Whether a frame says what became of its request."""
    response = frame.response
    if frame.error or response is None:
        return bool(frame.error)
    return response.body is not None or (response.status_code or 200) >= 300


def _frame_of(line: object) -> Frame | None:
    """Build a frame from JSON of any shape. What is odd counts as absent."""
    if not isinstance(line, dict):
        return None
    custom_id = line.get("custom_id")
    if isinstance(custom_id, int) and not isinstance(custom_id, bool):
        custom_id = str(custom_id)
    if not isinstance(custom_id, str):
        return None
    return Frame(custom_id, _response(line.get("response")), line.get("error"))


def _response(value: object) -> Response | None:
    if not isinstance(value, dict):
        return None
    status = number(value.get("status_code"))
    body = value.get("body")
    return Response(
        None if status is None or abs(status) > 999 else int(status),
        None if body is None else _body(body),
    )


def _body(value: object) -> ResponseBody:
    """Build a body of an unknown shape: what it holds is paid for, whatever that is."""
    if not isinstance(value, dict):
        return ResponseBody()
    usage, choices = value.get("usage"), value.get("choices")
    return ResponseBody(
        usage=_usage(usage) if isinstance(usage, dict) else None,
        error=value.get("error"),
        choices=[_choice(choice) for choice in choices] if isinstance(choices, list) else None,
        text=value.get("text"),
    )


def _usage(usage: dict[str, Any]) -> LineUsage:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    return LineUsage(*(count(usage.get(name), MOST_TOKENS) for name in names))


def _choice(value: object) -> Choice:
    reason = value.get("finish_reason") if isinstance(value, dict) else None
    return Choice(reason if isinstance(reason, str) else None)


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
