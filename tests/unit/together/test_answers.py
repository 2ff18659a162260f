"""Reading the answer lines that Together returns."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.together.answers import read_answer, read_frames


def test_a_success_is_read_with_its_usage() -> None:
    frame = read_answer(
        b'{"id":"br_1","custom_id":"ok-1","response":{"status_code":200,"body":{"id":"x",'
        b'"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant",'
        b'"content":"1"}}],"usage":{"prompt_tokens":73,"completion_tokens":42,'
        b'"total_tokens":115,"reasoning_tokens":0}}}}'
    )
    assert frame is not None
    assert frame.response is not None
    assert frame.response.body is not None
    usage = frame.response.body.usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (73, 42, 115)


@pytest.mark.parametrize(
    "body",
    [
        '{"duration":4.825,"language":"en","text":"…"}',
        '{"usage":{"prompt_tokens":1.5}}',
        '{"usage":"none"}',
        '{"choices":"odd"}',
        '{"choices":[{"finish_reason":7}]}',
        '["a","list"]',
        '"a text"',
        "null",
    ],
)
def test_a_success_of_any_shape_is_read(body: str) -> None:
    line = f'{{"custom_id":"a","response":{{"status_code":200,"body":{body}}}}}'
    frame = read_answer(line.encode())
    assert frame is not None
    assert frame.custom_id == "a"
    assert frame.response is not None
    assert frame.response.status_code == 200
    assert not frame.error


def test_an_error_inside_an_odd_body_is_kept() -> None:
    frame = read_answer(
        b'{"custom_id":"a","response":{"status_code":400,'
        b'"body":{"usage":"none","error":{"message":"no"}}}}'
    )
    assert frame is not None
    assert frame.response is not None
    assert frame.response.body is not None
    assert frame.response.body.error == {"message": "no"}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b'{"custom_id":"a","resp',
        b'{"custom_id":7,"response":{"status_code":200}}',
        b'{"response":{"status_code":200}}',
        b'{"custom_id":"a","response":"odd"}',
        b'{"custom_id":"a","response":{"status_code":"200"}}',
        b'{"custom_id":"\xff"}',
        b'{"custom_id":"a","error":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b"[]",
    ],
)
def test_a_broken_line_is_none(line: bytes) -> None:
    assert read_answer(line) is None


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(line: bytes) -> None:
    read_answer(line)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
FIELDS = ["custom_id", "response", "error", "status_code", "body", "usage", "choices"]


@given(st.dictionaries(st.sampled_from(FIELDS), json_values | st.just("a")))
def test_no_json_breaks_the_reader(line: dict[str, object]) -> None:
    try:
        data = msgspec.json.encode(line)
    except (OverflowError, UnicodeEncodeError):
        return
    read_answer(data)


def test_an_answer_that_ends_in_half_an_emoji_is_read() -> None:
    line = rb'{"custom_id":"a","response":{"status_code":200,"body":{"choices":['
    line += rb'{"finish_reason":"length","message":{"content":"so \ud83d"}}]}}}'
    for frame in (read_answer(line), *read_frames([line, line])):
        assert frame is not None
        assert frame.custom_id == "a"
        assert frame.response is not None
        assert frame.response.status_code == 200
    assert read_answer(line[:-3]) is None
