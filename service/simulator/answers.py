"""What the simulated models answer: a pure function of the request line."""

from hashlib import blake2b
from typing import Any

import msgspec

CHAT = "/v1/chat/completions"
CLIENT_ERROR = "batch_client_error"


class Refused(Exception):
    """The request of a line is wrong; the message is what the error line says."""


class Message(msgspec.Struct, gc=False):
    """A chat message of a request."""

    content: Any = None


class Body(msgspec.Struct, gc=False):
    """What the simulator looks at in a request's body."""

    model: Any = None
    messages: list[Message] | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    file: str | None = None
    language: str | None = None


class RequestLine(msgspec.Struct, gc=False):
    """An input line."""

    custom_id: str
    body: Body
    method: str | None = None


class Choice(msgspec.Struct, gc=False):
    """One choice of a chat completion."""

    index: int
    finish_reason: str
    message: dict[str, Any]


class Usage(msgspec.Struct, gc=False):
    """Tokens of a chat completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    reasoning_tokens: int = 0


class ChatCompletion(msgspec.Struct, gc=False):
    """The body of a chat answer."""

    id: str
    object: str
    model: str
    choices: list[Choice]
    usage: Usage


class Transcript(msgspec.Struct, gc=False):
    """The body of an audio answer. `duration` in seconds."""

    duration: float
    language: str
    text: str


_decoder = msgspec.json.Decoder(RequestLine)


def read(line: bytes) -> RequestLine:
    """Parse an input line that passed validation. Raises Refused for a body of a wrong shape."""
    try:
        return _decoder.decode(line)
    except msgspec.ValidationError as error:
        raise Refused(f"invalid request body: {error}") from error


def respond(
    line: RequestLine, endpoint: str, *, refused_models: frozenset[str]
) -> ChatCompletion | Transcript:
    """Answer a request. Raises Refused."""
    model = line.body.model
    if not isinstance(model, str):
        raise Refused("missing 'model' field in body or not a string")
    if model in refused_models:
        raise Refused(f"Unable to access model {model}. Please visit the model page.")
    if endpoint == CHAT:
        return _chat(line.body, model)
    if line.method != "FILE":
        raise Refused("Content-Type must be multipart/form-data")
    return _audio(line.body, translated=endpoint.endswith("translations"))


CHOICES: dict[str, list[Choice]] = {
    "empty_length": [Choice(0, "length", {"role": "assistant", "content": ""})],
    "tool_call": [
        Choice(
            0,
            "tool_calls",
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_sim",
                        "type": "function",
                        "function": {"name": "look_up", "arguments": '{"word": "echo"}'},
                    }
                ],
            },
        )
    ],
    "no_choices": [],
}
"""What else a model may answer with, by the effect of a line rule."""


def with_choices(completion: ChatCompletion, choices: list[Choice]) -> ChatCompletion:
    """The same answer, and as many tokens, with other choices."""
    return ChatCompletion(
        completion.id, completion.object, completion.model, choices, completion.usage
    )


def fingerprint(*parts: str) -> str:
    """Twelve hexadecimal digits that depend on nothing but the parts."""
    return blake2b("\0".join(parts).encode(), digest_size=6).hexdigest()


def _chat(body: Body, model: str) -> ChatCompletion:
    if not body.messages:
        raise Refused("missing 'messages' field in body or empty")
    if isinstance(body.stop, list) and len(body.stop) > 4:
        raise Refused("Maximum four stop sequences allowed")
    for index, tool in enumerate(body.tools or []):
        if "function" not in tool:
            raise Refused(f"tools[{index}]: missing field 'function'")
    texts = [_text(message.content) for message in body.messages]
    content = f"echo: {texts[-1]}"
    prompt = sum(_tokens(text) for text in texts)
    completion = _tokens(content)
    return ChatCompletion(
        f"sim-{fingerprint(model, *texts)}",
        "chat.completion",
        model,
        [Choice(0, "stop", {"role": "assistant", "content": content})],
        Usage(prompt, completion, prompt + completion),
    )


def _audio(body: Body, *, translated: bool) -> Transcript:
    if body.file is None or not body.file.startswith(("http://", "https://")):
        raise Refused("Failed to fetch audio: 'file' must be a public URL")
    language = "en" if translated else body.language or "en"
    said = "translation" if translated else "transcript"
    seconds = int(fingerprint(body.file), 16) % 60_000 / 1000
    return Transcript(seconds, language, f"{said} of {body.file}")


def _text(content: object) -> str:
    """The text of a message, also of one made of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def _tokens(text: str) -> int:
    """About as many tokens as a real tokenizer finds: one for four characters."""
    return 1 + len(text) // 4
