"""What an answer says: the texts that a check looks at, and the body that was paid for."""

from collections.abc import Iterator
from typing import Any

import msgspec

from service.rules.checks import Said
from service.together.lenient import read_json


class _WithBody(msgspec.Struct):
    response: "_Response"


class _Response(msgspec.Struct):
    body: msgspec.Raw


_with_body = msgspec.json.Decoder(_WithBody)


def said(line: bytes) -> Said:
    """Return what the line of an answer says, whatever its shape. What is odd says nothing."""
    try:
        answer = read_json(line)
    except ValueError:
        return Said(("",), is_empty=True)
    response = answer.get("response") if isinstance(answer, dict) else None
    body = response.get("body") if isinstance(response, dict) else None
    if not isinstance(body, dict):
        return Said(("",), is_empty=True)
    choices = body.get("choices")
    if not isinstance(choices, list):
        # Transcriptions and translations have one text.
        text = _text(body.get("text"))
        return Said((text,), is_empty=not text.strip())
    found = [choice for choice in choices if isinstance(choice, dict)]
    texts = [list(_texts(choice)) for choice in found]
    return Said(
        tuple(text for of_choice in texts for text in of_choice) or ("",),
        is_cut=any(choice.get("finish_reason") == "length" for choice in found),
        is_empty=not found or any(not "".join(of_choice).strip() for of_choice in texts),
    )


def _texts(choice: dict[str, Any]) -> Iterator[str]:
    """Yield the arguments of each call of a tool; or else the content, which may be empty."""
    message = choice.get("message")
    if not isinstance(message, dict):
        yield _text(choice.get("text"))
        return
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        yield _text(message.get("content"))
        return
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        arguments = function.get("arguments") if isinstance(function, dict) else None
        # A call without arguments is a call all the same.
        yield _text(arguments) or "{}"


def _text(value: object) -> str:
    if isinstance(value, str):
        # Half of a surrogate pair is no text that can be written.
        return value if value.isascii() else value.encode(errors="replace").decode()
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    return "" if value is None else msgspec.json.encode(value).decode()


def body_of(line: bytes) -> bytes:
    """Return the body of an answer as JSON: the provider's bytes wherever they are JSON."""
    try:
        return bytes(_with_body.decode(line).response.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.encode(line.decode(errors="replace"))
