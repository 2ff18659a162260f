"""What an answer says, whatever its shape."""

from typing import Any

import msgspec
import pytest

from service.rules.checks import Said
from service.together.said import body_of, said


def line(body: Any) -> bytes:
    return msgspec.json.encode({"custom_id": "a", "response": {"status_code": 200, "body": body}})


def choice(content: Any = None, reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {"finish_reason": reason, "message": {"content": content, **message}}


def call(arguments: Any) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"choices": [choice("hi")]}, Said(("hi",))),
        ({"choices": [choice("h", "length")]}, Said(("h",), is_cut=True)),
        ({"choices": [choice(" \n")]}, Said((" \n",), is_empty=True)),
        ({"choices": [choice()]}, Said(("",), is_empty=True)),
        ({"choices": [choice("a"), choice("b", "length")]}, Said(("a", "b"), is_cut=True)),
        ({"choices": [choice("a"), choice("")]}, Said(("a", ""), is_empty=True)),
        ({"choices": [choice([{"type": "text", "text": "a"}, {"text": "b"}])]}, Said(("ab",))),
        ({"choices": [choice("look", tool_calls=[call('{"a":1}')])]}, Said(('{"a":1}',))),
        (
            {"choices": [choice(tool_calls=[call('{"a":1}'), call({"b": 2})])]},
            Said(('{"a":1}', '{"b":2}')),
        ),
        ({"choices": [choice(tool_calls=[call("")])]}, Said(("{}",))),
        ({"choices": [choice("a", tool_calls=[])]}, Said(("a",))),
        ({"choices": [{"text": "old", "finish_reason": "stop"}]}, Said(("old",))),
        ({"choices": []}, Said(("",), is_empty=True)),
        ({"choices": [7, None]}, Said(("",), is_empty=True)),
        ({"text": "a transcript", "duration": 3.5}, Said(("a transcript",))),
        ({"text": ""}, Said(("",), is_empty=True)),
        ({}, Said(("",), is_empty=True)),
        ("text", Said(("",), is_empty=True)),
    ],
    ids=str,
)
def test_an_answer_says(body: Any, expected: Said) -> None:
    assert said(line(body)) == expected


def test_what_is_not_quite_json_says_what_can_be_read() -> None:
    choices = rb'[{"message": {"content": "\ud83d"}}]'
    odd = b'{"custom_id":"a","response":{"body":{"x":NaN,"choices":' + choices + b"}}}"
    assert said(odd) == Said(("?",))
    assert said(b"nothing") == Said(("",), is_empty=True)


def test_the_body_of_an_answer_is_the_providers_bytes() -> None:
    assert body_of(b'{"custom_id":"a", "response": {"body" : {"b": 1.0,  "a":2}}}\n') == (
        b'{"b": 1.0,  "a":2}'
    )
    odd = b'{"custom_id":"a","response":{"body":{"x":NaN}}}'
    assert msgspec.json.decode(body_of(odd)) == odd.decode()
