"""Reading the answer lines that Together returns."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.together.answers import MOST_TOKENS, answer_of, read_answer, read_frames, tells


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
        b'{"custom_id":"a","response":{"status_code":200,"body":null}}',
        b'{"custom_id":"a"}',
        b'{"custom_id":null,"response":{"status_code":200,"body":{}}}',
        b'{"custom_id":"\xff"}',
        b'{"custom_id":"a","error":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b"[]",
    ],
)
def test_a_broken_line_tells_nothing(line: bytes) -> None:
    frame = read_answer(line)
    assert frame is None or not tells(frame)


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


BODY = '{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":2}}'


@pytest.mark.parametrize(
    "status", ["200", "200.0", '"200"', '"200.0"', "null", "true", '"OK"', "[]"]
)
def test_an_odd_status_beside_an_answer_decides_nothing(status: str) -> None:
    line = f'{{"custom_id":"a","response":{{"status_code":{status},"body":{BODY}}}}}'.encode()
    for frame in (read_answer(line), *read_frames([line, line])):
        assert frame is not None
        answer = answer_of(frame)
        assert answer is not None
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 2


@pytest.mark.parametrize("status", ["500", '"500"', "400.0", "99"])
def test_a_status_that_is_no_success_is_a_failure(status: str) -> None:
    frame = read_answer(
        f'{{"custom_id":"a","response":{{"status_code":{status},"body":{BODY}}}}}'.encode()
    )
    assert frame is not None
    assert answer_of(frame) is None
    assert tells(frame)


@pytest.mark.parametrize(
    ("written", "counted"),
    [
        ('"17"', 17),
        ("17.0", 17),
        ("null", 0),
        ('"many"', 0),
        ("-3", 0),
        ("1e19", MOST_TOKENS),
        ("10000000000000000000", MOST_TOKENS),
        ("9" * 5000, 0),
        ("NaN", 0),
        ("true", 0),
        ("[1]", 0),
    ],
)
def test_odd_usage_is_read_as_a_number_that_can_be_stored(written: str, counted: int) -> None:
    line = (
        f'{{"custom_id":"a","response":{{"status_code":200,"body":{{"usage":'
        f'{{"prompt_tokens":{written},"completion_tokens":1}}}}}}}}'
    ).encode()
    for frame in (read_answer(line), *read_frames([line, line])):
        assert frame is not None
        answer = answer_of(frame)
        assert answer is not None
        usage = answer.usage
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (counted, 1)


def test_numbers_that_json_does_not_have_spoil_no_answer() -> None:
    line = b'{"custom_id":"a","response":{"status_code":200,"body":{"logprobs":[NaN,-Infinity]}}}'
    frame = read_answer(line)
    assert frame is not None
    assert answer_of(frame) is not None
