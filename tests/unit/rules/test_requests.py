"""Reading the request lines that producers send."""

import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rules import requests
from service.rules.requests import (
    AUDIO,
    CHAT,
    LINE_BYTES,
    LineError,
    LineSplitter,
    read_request,
    read_requests,
)
from tests.factories import chat_line


def split_lines(blocks: Iterable[bytes]) -> list[bytes]:
    """The lines of some blocks, as LineSplitter cuts them."""
    splitter = LineSplitter()
    return [line for block in blocks for line in splitter.feed(block)] + splitter.end()


FILE = "https://example.com/a.mp3"

# (endpoint, line, words of the refusal)
BAD_LINES = [
    (CHAT, b"hello", "is not JSON"),
    (CHAT, b'{"custom_id": "a", "body": {"model": "m"}', "is not JSON"),
    (CHAT, b'{"custom_id": "a", "body": {"model": "m"}} x', "is not JSON"),
    (CHAT, b'{"custom_id": "a", "body": {"model": "m", "n": NaN}}', "is not JSON"),
    (CHAT, b"[" * 100_000, "expected `object`"),
    (CHAT, b'{"custom_id":"a","body":{"model":"m","x":' + b"[" * 5000 + b"]" * 5000 + b"}}", "not"),
    (CHAT, b"[]", "expected `object`, got `array`"),
    (CHAT, b"null", "expected `object`, got `null`"),
    (CHAT, b'{"body": {"model": "m"}}', "missing required field `custom_id`"),
    (CHAT, b'{"custom_id": null, "body": {"model": "m"}}', "$.custom_id"),
    (CHAT, b'{"custom_id": 7, "body": {"model": "m"}}', "$.custom_id"),
    (CHAT, b'{"custom_id": "", "body": {"model": "m"}}', "length >= 1 - at `$.custom_id`"),
    (CHAT, chat_line("x" * 65), "length <= 64 - at `$.custom_id`"),
    (CHAT, b'{"custom_id": "a"}', "missing required field `body`"),
    (CHAT, b'{"custom_id": "a", "body": "text"}', "$.body"),
    (CHAT, b'{"custom_id": "a", "body": null}', "$.body"),
    (CHAT, b'{"custom_id": "a", "body": {}}', "missing required field `model` - at `$.body`"),
    (CHAT, b'{"custom_id": "a", "body": {"model": ""}}', "$.body.model"),
    (CHAT, b'{"custom_id": "a", "body": {"model": 3}}', "$.body.model"),
    (CHAT, b'{"custom_id": "a", "body": {"model": "m"}, "id": 1}', "`custom_id` and `body`"),
    (CHAT, b'{"custom_id": "a", "body": {"model": "m"}, "method": "GET"}', 'has "method": "GET"'),
    (CHAT, b'{"custom_id": "a", "body": {"model": "m"}, "method": "FILE"}', 'or write "POST"'),
    (CHAT, b'{"custom_id": "a", "body": {"model": "m"}, "method": 7}', "$.method"),
    (CHAT, b'{"custom_id": "a", "body": {"model": "m"}, "url": ["/v1"]}', "$.url"),
    (CHAT, b'{"custom_id": "a", "body": {"model": "m", "x": "\xff"}}', "is not UTF-8 (byte 49)"),
    (CHAT, b'{"custom_id": "a\\u0000", "body": {"model": "m"}}', "NUL"),
    (CHAT, b'{"custom_id": "a", "body": {"model": "m\\u0000"}}', "NUL"),
    (CHAT, chat_line("a\x1b[31m"), r"custom_id 'a\x1b[31m' holds U+001B"),
    (CHAT, chat_line("a\u202eb"), r"custom_id 'a\u202eb' holds U+202E"),
    (CHAT, chat_line("a", model="m\x9b"), r"model 'm\x9b' holds U+009B"),
    (
        AUDIO[0],
        b'{"custom_id":"a\\u200b","method":"FILE","body":{"model":"m","file":"https://x/a"}}',
        r"custom_id 'a\u200b' holds U+200B",
    ),
    (CHAT, chat_line("a", pad="x" * LINE_BYTES), "is longer than 10,000,000 bytes"),
    *[
        (endpoint, line, words)
        for endpoint in AUDIO
        for line, words in [
            (
                b'{"custom_id": "a", "body": {"model": "m", "file": "https://x/a"}}',
                'must have "method": "FILE"',
            ),
            (
                b'{"custom_id": "a", "method": null, "url": null,'
                b' "body": {"model": "m", "file": "https://x/a"}}',
                'must have "method": "FILE"',
            ),
            (
                b'{"custom_id": "a", "method": "PUT",'
                b' "body": {"model": "m", "file": "https://x/a"}}',
                'write "POST" or "FILE"',
            ),
            (b'{"custom_id": "a", "method": "FILE", "body": {"model": "m"}}', "`file`"),
            (
                b'{"custom_id": "a", "method": "FILE", "body": {"model": "m", "file": "/a"}}',
                "body.file must be an http(s) URL",
            ),
        ]
    ],
]


@pytest.mark.parametrize(("endpoint", "line", "words"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_is_refused_in_words_for_its_writer(
    endpoint: str, line: bytes, words: str
) -> None:
    with pytest.raises(LineError) as refusal:
        read_request(line, endpoint)
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    "line",
    [
        chat_line("a"),
        chat_line("x" * 64),
        chat_line("ü" * 64, note="\u2028\u202e\x1b"),
        chat_line("请求 é e\u0301 👩\u200d👧"),
        chat_line("a", anything={"goes": [1, 2.5, None]}),
        b'  {"custom_id":"a","body":{"model":"m"}} \t',
    ],
)
def test_a_good_chat_line_is_read(line: bytes) -> None:
    request, stored = read_request(line, CHAT)
    assert request.custom_id == msgspec.json.decode(line)["custom_id"]
    assert stored == line.strip()


@given(
    st.lists(st.text(st.sampled_from("aé\u200d👩\u202e\x1b\u00a0"), min_size=1, max_size=3)),
    st.text(st.sampled_from("mé\u200d\x9b"), min_size=1, max_size=2),
)
def test_a_block_is_read_at_once_if_and_only_if_each_of_its_lines_is_good(
    ids: list[str], model: str
) -> None:
    lines = [chat_line(custom_id, model=model) for custom_id in ids]
    singly = []
    for line in lines:
        with suppress(LineError):
            singly.append(read_request(line, CHAT)[0])
    at_once = read_requests(b"\n".join(lines), lines, CHAT) if lines else []
    assert (at_once is not None) == (len(singly) == len(lines))
    assert at_once in (None, singly)


@pytest.mark.parametrize("endpoint", AUDIO)
def test_a_good_audio_line_is_read(endpoint: str) -> None:
    body = {"model": "openai/whisper-large-v3", "file": FILE, "language": "en"}
    line = msgspec.json.encode({"custom_id": "a", "method": "FILE", "body": body})
    request, stored = read_request(line, endpoint)
    assert request.body.model == "openai/whisper-large-v3"
    assert stored == line


BODY = b'{"model": "m",  "file": "https://x/a", "n": 1.0, "none": null, "text": "\\u00e9\xc3\xa9"}'
URLS = {
    CHAT: (
        "/v1/chat/completions",
        "/chat/completions",
        "v1/chat/completions",
        "chat/completions",
        "/v1/chat/completions/",
        "https://api.together.xyz/v1/chat/completions",
        "https://api.openai.com/v1/chat/completions",
        "HTTP://localhost:8000/chat/completions",
    ),
    AUDIO[0]: ("/v1/audio/transcriptions", "https://api.together.ai/v1/audio/transcriptions"),
    AUDIO[1]: ("/audio/translations",),
}
# The members of a line besides its custom_id and body, as they may be written.
SHAPES = [
    (endpoint, members)
    for endpoint, urls in URLS.items()
    for url in urls
    for members in (
        f'"method": "POST", "url": "{url}", ',
        f'"url": "{url}", "method": null, ',
        f'"method": "post", "url": "{url}", ',
    )
] + [
    (CHAT, '"method": null, "url": null, '),
    (CHAT, '"method": "POST", '),
    (AUDIO[0], '"method": "POST", '),
    (AUDIO[0], '"method": "FILE", "url": "/v1/audio/transcriptions", '),
]


@pytest.mark.parametrize(("endpoint", "members"), SHAPES, ids=range(len(SHAPES)))
def test_a_line_in_the_shape_of_openai_is_stored_without_method_and_url(
    endpoint: str, members: str
) -> None:
    line = b'{"custom_id": "\\u00e9", ' + members.encode() + b'"body": ' + BODY + b"}"
    request, stored = read_request(line, endpoint)
    assert (request.custom_id, request.body.model) == ("é", "m")
    method = b'"method":"FILE",' if endpoint in AUDIO else b""
    assert stored == b'{"custom_id":"\\u00e9",' + method + b'"body":' + BODY + b"}"
    assert read_request(stored, endpoint) == (request, stored)


@pytest.mark.parametrize(
    "url",
    [
        "/v1/completions",
        "/v1/embeddings",
        "/v1/audio/transcriptions",
        "/v2/chat/completions",
        "/v1/v1/chat/completions",
        "/v1/chat/completions?x=1",
        "https://api.openai.com",
        "",
        "\x1b[31m",
        "x" * 10_000,
    ],
)
def test_a_url_that_is_not_the_endpoint_is_refused_with_both(url: str) -> None:
    line = msgspec.json.encode(
        {"custom_id": "a", "method": "POST", "url": url, "body": {"model": "m"}}
    )
    with pytest.raises(LineError) as refusal:
        read_request(line, CHAT)
    words = str(refusal.value)
    assert words.startswith('has "url": "')
    assert "the endpoint of the job is /v1/chat/completions" in words
    assert len(words) < 300
    assert words.isprintable()


# (line, words of the refusal): bytes are counted from 1, in the line as it stands in the file
PLACES = [
    (b'  {"custom_id": x}', "invalid character (byte 17)"),
    (b'\xef\xbb\xbf{"custom_id": x}', "invalid character (byte 18)"),
    (b'{"custom_id": "a", "body": {"model": "m"}} x', "trailing characters (byte 44)"),
    (b'{"custom_id": "a', "ends within a value, at byte 16"),
    (b'  {"custom_id": "\xff"}', "is not UTF-8 (byte 18)"),
    (b'{"custom_id": "\xed\xa0\xbd"}', "half of a surrogate pair (byte 16)"),
    (b'{"custom_id": "a", "body": {"text": "\\ud83d"}}', "half of a surrogate pair (byte 38)"),
    (b' {"custom_id": "a", "body": {"text": "\\ud83dx"}}', "half of a surrogate pair (byte 39)"),
    (b'{"custom_id": "\\udE00", "body": {}}', "half of a surrogate pair (byte 16)"),
    (b'{"custom_id": "\\ud83d\\u0041"}', "half of a surrogate pair (byte 16)"),
    (b'{"custom_id": "\\ud83d\\ud83d\\ude00"}', "half of a surrogate pair (byte 16)"),
    (b'{"custom_id": "\\\\ud83d" x}', "expected ',' or '}' (byte 25)"),
    (b'{"custom_id": "\\ud83d\\ude00" x}', "expected ',' or '}' (byte 30)"),
]


@pytest.mark.parametrize(("line", "words"), PLACES, ids=range(len(PLACES)))
def test_the_place_of_a_fault_is_a_byte_of_the_line_counted_from_one(
    line: bytes, words: str
) -> None:
    with pytest.raises(LineError) as refusal:
        read_request(line, CHAT)
    assert words in str(refusal.value)


def test_a_line_of_just_ten_megabytes_is_taken() -> None:
    bare = len(chat_line("a", pad=""))
    line = chat_line("a", pad="x" * (LINE_BYTES - bare))
    assert len(line) == LINE_BYTES
    assert read_request(line, CHAT)[0].custom_id == "a"


# --- cutting ------------------------------------------------------------------------------------


def _naive(data: bytes) -> list[bytes]:
    found = data.split(b"\n")
    return found[:-1] if not found[-1] else found


texts = st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b"\r", b"\xe2\x80\xa8", b"{}", b" "]))


@given(texts.map(b"".join), st.lists(st.integers(0, 60)))
def test_lines_are_cut_at_line_feeds_wherever_the_blocks_end(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), max(60, len(data))]
    blocks = [data[start:end] for start, end in pairwise(places)]
    assert list(split_lines(blocks)) == _naive(data)


def test_a_line_separator_inside_a_string_cuts_nothing() -> None:
    line = chat_line("a", note="one\u2028two\u2029three\x85four")
    assert list(split_lines([line + b"\n" + line])) == [line, line]


def test_a_last_line_without_its_end_is_a_line() -> None:
    assert list(split_lines([b"a\nb"])) == [b"a", b"b"]
    assert list(split_lines([b"a\nb\n"])) == [b"a", b"b"]
    assert list(split_lines([])) == []


@pytest.mark.parametrize("limit", [10, 100])
def test_an_endless_line_is_still_too_long_and_its_successor_whole(
    monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(requests, "LINE_BYTES", limit)
    blocks = [b"x" * 7] * 100 + [b"\nnext\n"]
    first, second = split_lines(blocks)
    assert limit < len(first) <= limit + 7
    assert second == b"next"


def test_an_endless_line_does_not_fill_the_memory() -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * (1 << 20)

    tracemalloc.start()
    try:
        (line,) = split_lines(endless())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(line) > LINE_BYTES
    assert peak < 4 * LINE_BYTES


# --- what comes back ----------------------------------------------------------------------------
