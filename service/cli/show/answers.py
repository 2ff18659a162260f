"""Result lines as answers: what a model said, or why it did not."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, fields
from io import TextIOWrapper
from typing import Any, BinaryIO

import msgspec


@dataclass(frozen=True)
class Answer:
    """One result line. A request that failed has an error and no text."""

    custom_id: str
    text: str | None
    error: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None


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
    said = _at(choice, "message", "content") if choice is not None else _at(body, "text")
    return Answer(
        custom_id=_text(_at(result, "custom_id")) or "",
        text=None if error else _text(said) or "",
        error=_error(error) if error else None,
        prompt_tokens=_count(_at(body, "usage", "prompt_tokens")),
        completion_tokens=_count(_at(body, "usage", "completion_tokens")),
        finish_reason=_text(_at(choice, "finish_reason")),
    )


# What a spreadsheet takes for a formula, by its first character (OWASP, "CSV Injection").
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def write_csv(found: Iterable[Answer], file: BinaryIO, *, raw: bool = False) -> int:
    """One answer a row, below the columns' names; gives their number.

    Unless `raw`, an apostrophe goes before text that a spreadsheet would run.
    """
    count = 0
    text = TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)
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
