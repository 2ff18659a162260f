"""Result lines as answers: what a model said, or why it did not."""

import csv
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from io import TextIOWrapper
from typing import Any, BinaryIO

import msgspec


@dataclass(frozen=True)
class Answer:
    """One result line. A request that failed has an error and no text.

    `tool_calls` is JSON: the calls that an answer makes, instead of text or beside it.
    """

    custom_id: str
    text: str | None
    error: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None
    tool_calls: str | None = None
    error_code: str | None = None
    attempts: int | None = None
    """Of a request that failed; the result line of a success does not say."""


COLUMNS = tuple(field.name for field in fields(Answer))


def answers(blocks: Iterable[bytes]) -> Iterator[Answer]:
    """The answers in blocks of result lines."""
    for line in lines(blocks):
        yield answer(line)


def answer(line: bytes) -> Answer:
    """The answer in one line: chat's first choice, or a transcript."""
    try:
        result = msgspec.json.decode(line)
    except msgspec.DecodeError:
        result = json.loads(line)  # a model's text may end in half of an emoji
    body = _at(result, "response", "body")
    choices = _at(body, "choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    error = _at(result, "error")
    return Answer(
        custom_id=_text(_at(result, "custom_id")) or "",
        text=None if error else _text(_said(body, choice)) or "",
        error=_error(error) if error else None,
        prompt_tokens=_count(_at(body, "usage", "prompt_tokens")),
        completion_tokens=_count(_at(body, "usage", "completion_tokens")),
        finish_reason=_text(_at(choice, "finish_reason")),
        tool_calls=None if error else _tool_calls(_at(choice, "message")),
        error_code=_text(_at(error, "code")) if error else None,
        attempts=_count(_at(result, "attempts")),
    )


def _said(body: Any, choice: Any) -> Any:
    """What an answer says: its content or its refusal, or a transcript."""
    if choice is None:
        return _at(body, "text")
    content = _at(choice, "message", "content")
    if isinstance(content, list):  # in parts, of which some are text
        texts = [_at(part, "text") for part in content]
        if texts and all(isinstance(text, str) for text in texts):
            return "".join(texts)
    return content or _at(choice, "message", "refusal") or _at(choice, "text")


def _tool_calls(message: Any) -> str | None:
    """The calls of tools as JSON. An older way to write them has one call."""
    calls, call = _at(message, "tool_calls"), _at(message, "function_call")
    if not calls and call:
        calls = [{"type": "function", "function": call}]
    return _text(calls) if calls else None


# What a spreadsheet takes for a formula, by its first character (OWASP, "CSV Injection").
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def write_csv(
    found: Iterable[Answer],
    file: BinaryIO,
    *,
    raw: bool = False,
    bom: bool = False,
    delimiter: str = ",",
) -> int:
    """One answer a row, below the columns' names; gives their number.

    Unless `raw`, an apostrophe goes before text that a spreadsheet would run. Without `bom`, Excel
    does not read the file as UTF-8.
    """
    count = 0
    if bom:
        file.write(BOM_UTF8)
    text = TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(COLUMNS)
    for one in found:
        writer.writerow(astuple(one) if raw else map(_defused, astuple(one)))
        count += 1
    text.detach()  # the file stays open, it is not ours to close
    return count


def _defused(cell: str | int | None) -> str | int | None:
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def lines(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of blocks, however long."""
    rest = bytearray()
    for block in blocks:
        *whole, last = block.split(b"\n")
        for line in whole:
            yield bytes(rest + line)
            rest.clear()
        rest += last
    if rest:
        yield bytes(rest)


def _at(value: Any, *path: str) -> Any:
    """What stands there; None where the shape is another."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _error(error: Any) -> str:
    code, message = _at(error, "code"), _at(error, "message")
    return _text(f"{code}: {message}" if code and message else message or code or error) or ""


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # Halves of surrogate pairs have no place in UTF-8.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None
