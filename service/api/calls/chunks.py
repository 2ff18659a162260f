"""A whole chat completion as the one chunk of a stream."""

from typing import Any

import msgspec

DONE = b"data: [DONE]\n\n"


def as_stream(body: bytes) -> bytes:
    """Return the events of a stream that says what the body of a chat completion says."""
    return b"data: " + msgspec.json.encode(_chunk(msgspec.json.decode(body))) + b"\n\n" + DONE


def _chunk(answer: Any) -> Any:
    if not isinstance(answer, dict):
        return answer
    choices = answer.get("choices")
    if not isinstance(choices, list):
        return {**answer, "object": "chat.completion.chunk"}
    return {
        **answer,
        "object": "chat.completion.chunk",
        "choices": [_choice(choice) for choice in choices],
    }


def _choice(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    rest = {name: value for name, value in choice.items() if name != "message"}
    message = choice.get("message")
    delta = {"role": "assistant", **message} if isinstance(message, dict) else {}
    calls = delta.get("tool_calls")
    if isinstance(calls, list):
        # In a chunk each says which one it is a piece of.
        delta["tool_calls"] = [
            {"index": at, **call} if isinstance(call, dict) else call
            for at, call in enumerate(calls)
        ]
    return {**rest, "delta": delta}
