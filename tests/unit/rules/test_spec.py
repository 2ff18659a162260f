"""The batch spec: every field, every refusal, and what `input` may point to."""

import os
import socket
import threading
import tracemalloc
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.payloads.inputs import InputUnreadable, open_input
from service.rules import spec as rules
from service.rules.errors import BadInput
from service.rules.metadata import METADATA_BYTES
from service.rules.permissions import Permissions, may_read
from service.rules.requests import ENDPOINTS
from service.rules.spec import (
    ENVELOPE_BYTES,
    SPEC_BYTES,
    Spec,
    canonical,
    fingerprint,
    read_spec,
    request_lines,
)
from tests.factories import CHAT, chat_request

GOOD: dict[str, Any] = {"endpoint": CHAT, "requests": [chat_request("a")]}
ROOTS = ("file:///data/in", "s3://bucket/inputs/")


def _read(**fields: Any) -> Spec:
    content = {key: value for key, value in {**GOOD, **fields}.items() if value is not ...}
    return read_spec(msgspec.json.encode(content), Permissions(input_roots=ROOTS))


def _refusal(**fields: Any) -> str:
    with pytest.raises(BadInput) as refusal:
        _read(**fields)
    return str(refusal.value)


def test_what_is_left_out_has_a_default() -> None:
    spec = _read()
    assert (spec.account, spec.max_attempts, spec.priority) == ("default", 3, 0)
    assert (spec.idempotency_key, spec.input, spec.metadata, spec.notify) == (None, None, {}, [])


def test_everything_can_be_given() -> None:
    spec = _read(
        idempotency_key="nightly",
        max_attempts=100,
        priority=9,
        metadata={"team": "search", "n": [1, {"x": None}]},
    )
    assert (spec.idempotency_key, spec.max_attempts, spec.priority) == ("nightly", 100, 9)
    assert spec.metadata == {"team": "search", "n": [1, {"x": None}]}


@pytest.mark.parametrize("pad", [0, ENVELOPE_BYTES], ids=["small", "large"])
def test_null_means_that_a_field_was_left_out(pad: int) -> None:
    nulls = dict.fromkeys(set(Spec.__struct_fields__) - {"endpoint", "requests"})
    fields = {"endpoint": "/v1/chat/completions", "requests": []}
    data = msgspec.json.encode({**fields, **nulls}) + b" " * pad
    assert read_spec(data, Permissions()) == read_spec(msgspec.json.encode(fields), Permissions())


# (body, words of the refusal): bytes are counted from 1
NO_SPECS = [
    (b'{"custom_id": "a", "body": {}}\n', "unknown field `custom_id` (it is JSONL: send it as"),
    (b'{"custom_id": "a"}\n{"custom_id": "b"}\n', "(it is JSONL: send it as application/x-nd"),
    (b'[{"custom_id": "a"}]', "got `array` (it is a JSON array: put it into an object, "),
    ('{"endpoint": 1}'.encode("utf-16"), "the spec is UTF-16, not UTF-8: save it as UTF-8"),
    (b"PK\x03\x04...", "the spec is a zip archive"),
    (b"", "the spec is not JSON: the body is empty"),
    (b'{"endpoint": x}', "the spec is not JSON (invalid character (byte 14))"),
    (b'\xef\xbb\xbf{"endpoint": x}', "the spec is not JSON (invalid character (byte 17))"),
    (b'{"endpoint": "\xff"}', "the spec is not UTF-8 (byte 15)"),
    (b'{"metadata": {"a": "\\ud83d"}}', "the spec holds half of a surrogate pair (byte 21)"),
]


@pytest.mark.parametrize(("data", "words"), NO_SPECS, ids=range(len(NO_SPECS)))
def test_what_is_no_spec_is_named(data: bytes, words: str) -> None:
    with pytest.raises(BadInput) as refusal:
        read_spec(data, Permissions())
    assert words in str(refusal.value)
    assert len(refusal.value.problems) == 1


def test_a_byte_order_mark_is_passed_over() -> None:
    data = b'\xef\xbb\xbf{"endpoint": "/v1/chat/completions", "requests": []}'
    assert read_spec(data, Permissions()).requests == []


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_every_endpoint_of_the_batch_api_is_taken(endpoint: str) -> None:
    assert _read(endpoint=endpoint).endpoint == endpoint


def test_an_input_under_a_root_is_taken() -> None:
    assert _read(requests=..., input="s3://bucket/inputs/a.jsonl").requests is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"endpoint": ...}, "missing required field `endpoint`"),
        ({"endpoint": None}, "field `endpoint`"),
        ({"endpoint": "/v1/embeddings"}, "endpoint '/v1/embeddings' cannot be batched; use /v1/ch"),
        ({"requests": ...}, "`requests` or `input` is missing"),
        ({"requests": None}, "`requests` or `input` is missing"),
        ({"requests": {}}, "`requests`: Expected `array"),
        ({"input": "s3://bucket/inputs/a"}, "give `requests` or `input`, not both"),
        ({"requests": ..., "input": "s3://bucket/other"}, "under one of the allowed input roots"),
        ({"requests": ..., "input": 7}, "$.input"),
        ({"idempotency_key": ""}, "$.idempotency_key"),
        ({"idempotency_key": "x" * 256}, "$.idempotency_key"),
        ({"idempotency_key": 7}, "$.idempotency_key"),
        ({"account": "research"}, "account 'research' is not yours or does not exist"),
        ({"account": 7}, "$.account"),
        ({"colour": None}, "unknown field `colour`"),
        ({"max_attempts": 0}, "$.max_attempts"),
        ({"max_attempts": 101}, "$.max_attempts"),
        ({"max_attempts": 1.5}, "$.max_attempts"),
        ({"max_attempts": "3"}, "$.max_attempts"),
        ({"priority": 1001}, "$.priority"),
        ({"priority": -1001}, "$.priority"),
        ({"priority": 10}, "`priority` 10 is not yours; use 0 to 9"),
        ({"priority": -1}, "`priority` -1 is not yours; use 0 to 9"),
        ({"priority": True}, "$.priority"),
        ({"metadata": []}, "$.metadata"),
        ({"metadata": {"x": "y" * METADATA_BYTES}}, "`metadata` may have 16,384 bytes"),
        ({"metadata": {"x": "\x00"}}, "NUL"),
        ({"idempotency_key": "\x00"}, "NUL"),
        ({"idempotency_key": "nightly\u202e"}, "`idempotency_key` holds U+202E"),
        ({"account": "\x1b[2J"}, "`account` holds U+001B"),
        ({"requests": ..., "input": "file:///data/in/\x9b.jsonl"}, "`input` holds U+009B"),
        ({"metadata": {"a\x1b": 1}}, r"`metadata`: the key 'a\x1b' holds U+001B"),
        ({"metadata": {"a": [{"b": {"\u2066": 1}}]}}, r"`metadata`: the key '\u2066' holds U+2066"),
        ({"notify": [{"task": "t", "queue": "q"}]}, "task 't' is not allowed"),
        ({"notify": "me"}, "$.notify"),
        ({"colour": "red"}, "unknown field `colour`"),
    ],
)
def test_a_bad_field_is_refused_by_its_name(fields: dict[str, Any], words: str) -> None:
    assert words in _refusal(**fields)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b'{"endpoint": "\xff"}',
        b'{"endpoint": "/v1/chat/completions", "requests": [NaN]}',
        b"[" * 100_000,
        b'{"endpoint":"e","metadata":{"x":' + b"[" * 5000 + b"]" * 5000 + b"}}",
        b'{"endpoint":"e","requests":[' + b"[" * 5000 + b"]" * 5000 + b"]}",
    ],
)
def test_what_is_no_spec_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput, match="the spec is not"):
        read_spec(data, Permissions())


_START = b'{"endpoint":"/v1/chat/completions",'


_MANY = 400_000


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param(b'"requests":[' + b"{}," * _MANY + b"{}]", "400,000 requests", id="requests"),
        pytest.param(b'"requests":[' + b"111," * _MANY + b"1]", "Expected `object`", id="numbers"),
        pytest.param(
            b'"metadata":{"a":[' + b"[]," * _MANY + b"[]]}", "without its requests", id="metadata"
        ),
        pytest.param(b'"notify":[' + b"{}," * _MANY + b"{}]", "without its requests", id="notify"),
        pytest.param(
            b'"requests":{"a":"' + b"x" * ENVELOPE_BYTES + b'"}',
            "`requests`: Expected",
            id="object",
        ),
        pytest.param(
            b'"colour":"' + b"x" * ENVELOPE_BYTES + b'"', "unknown field `colour`", id="unknown"
        ),
    ],
)
def test_a_spec_that_would_fill_the_memory_is_refused(fields: bytes, words: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match=words):
            read_spec(_START + fields + b"}", Permissions())
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_a_large_spec_is_read_as_a_small_one_is() -> None:
    fields = {**GOOD, "metadata": {"a": 1}, "priority": 3, "idempotency_key": "k"}
    small = read_spec(msgspec.json.encode(fields), Permissions())
    padded = msgspec.json.encode(fields).replace(b":", b": " + b" " * ENVELOPE_BYTES, 1)

    large = read_spec(bytearray(padded), Permissions())

    assert large.envelope() == small.envelope()
    assert large.idempotency_key == "k"
    assert list(request_lines(large)) == list(request_lines(small))


@pytest.mark.parametrize("requests", [b"null", None])
def test_a_large_spec_without_requests_is_missing_them(requests: bytes | None) -> None:
    field = b"" if requests is None else b',"requests":' + requests
    with pytest.raises(BadInput, match="`requests` or `input` is missing"):
        read_spec(_START[:-1] + b" " * ENVELOPE_BYTES + field + b"}", Permissions())


def test_the_parts_of_a_spec_are_its_fields() -> None:
    assert set(rules._Parts.__struct_fields__) == set(Spec.__struct_fields__)


def test_a_spec_beyond_the_limit_is_refused_as_too_large() -> None:
    with pytest.raises(BadInput, match="32,000,000 bytes") as refusal:
        read_spec(b" " * (SPEC_BYTES + 1), Permissions())
    assert refusal.value.too_large


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with pytest.raises(BadInput):
        read_spec(data, Permissions())


# --- request lines and the fingerprint ----------------------------------------------------------


def test_requests_stay_as_they_were_written_but_for_line_breaks() -> None:
    data = (
        b'{"endpoint": "/v1/chat/completions", "requests": [{"custom_id":  "a"},'
        b'\n {"custom_id":\n "b",\r\n "x": 1.50}, {"custom_id":\r"c"}]}'
    )
    spec = read_spec(data, Permissions())
    first, *others = request_lines(spec)
    assert first == b'{"custom_id":  "a"}'
    assert others == [b'{"custom_id":"b","x":1.50}', b'{"custom_id":"c"}']


def _print(spec: Spec) -> str:
    return fingerprint(spec, "".join(map(repr, map(canonical, request_lines(spec)))))


def test_the_order_of_keys_does_not_change_a_fingerprint() -> None:
    one = b'{"endpoint":"/v1/chat/completions","requests":[{"custom_id":"a","body":{"x":1,"y":2}}]'
    other = (
        b'{"requests":[{"body":{"y":2, "x":1},"custom_id":"a"}],"endpoint":"/v1/chat/completions"'
    )
    specs = [
        read_spec(one + b',"metadata":{"a":1,"b":2}}', Permissions()),
        read_spec(other + b',"metadata":{"b":2,"a":1},"idempotency_key":"k"}', Permissions()),
    ]
    assert _print(specs[0]) == _print(specs[1])


@pytest.mark.parametrize(
    "fields",
    [
        {"requests": [chat_request("b")]},
        {"requests": [chat_request("a"), chat_request("b")]},
        {"requests": [chat_request("a", temperature=0)]},
        {"endpoint": "/v1/audio/translations"},
        {"max_attempts": 2},
        {"priority": 1},
        {"metadata": {"a": 1}},
        {"check": "json"},
    ],
)
def test_any_other_content_changes_the_fingerprint(fields: dict[str, Any]) -> None:
    assert _print(_read(**fields)) != _print(_read())


def test_fields_that_came_later_leave_the_fingerprints_of_before_alone() -> None:
    """A job that was submitted before an upgrade is found again by its key."""
    envelope = msgspec.json.decode(_read().envelope())
    assert set(envelope) == {
        *("endpoint", "account", "priority", "max_attempts", "input", "metadata", "notify")
    }


def test_the_order_of_requests_changes_the_fingerprint() -> None:
    a, b = chat_request("a"), chat_request("b")
    assert _print(_read(requests=[a, b])) != _print(_read(requests=[b, a]))


# --- what `input` may point to ------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "file:///data/in",
        "file:///data/in/a.jsonl",
        "file:///data/in/deep/er/a.jsonl",
        "file:///data/in/x/../a.jsonl",
        "file:///data//in/./a.jsonl",
        "file:///data/in/with%20space.jsonl",
        "s3://bucket/inputs/a.jsonl",
    ],
)
def test_what_lies_under_a_root_may_be_read(url: str) -> None:
    assert may_read(url, ROOTS)


@pytest.mark.parametrize(
    "url",
    [
        "file:///data/input/a.jsonl",
        "file:///data/in2",
        "file:///data",
        "file:///etc/passwd",
        "file:///data/in/../secret",
        "file:///data/in/..",
        "file:///data/in/%2e%2e/secret",
        "file:///data/in/%2E%2E%2Fsecret",
        "file:///data/in/x/..%2f..%2fsecret",
        "file:///data/in\\..\\secret",
        "file:///data/in/a\x00.jsonl",
        "file:///data/in/a%00.jsonl",
        "file:///data/in/a?x=1",
        "file:///data/in/a#x",
        "file://elsewhere/data/in/a.jsonl",
        "file:data/in/a.jsonl",
        "FILE:relative",
        "/data/in/a.jsonl",
        "s3://bucket2/inputs/a.jsonl",
        "s3://bucket/inputs2/a.jsonl",
        "s3://bucket/a.jsonl",
        "s3://user@bucket/inputs/a.jsonl",
        "s3://bucket:80/inputs/a.jsonl",
        "s3://[/inputs",
        "http://bucket/inputs/a.jsonl",
        "https://bucket/inputs/a.jsonl",
        "gs://bucket/inputs/a.jsonl",
        "",
    ],
)
def test_what_lies_elsewhere_may_not_be_read(url: str) -> None:
    assert not may_read(url, ROOTS)


def test_http_may_not_be_read_even_if_a_root_says_so() -> None:
    assert not may_read("https://x/in/a", ("https://x/in", "http://x"))


def test_nothing_may_be_read_without_roots() -> None:
    assert not may_read("file:///a", ())


@pytest.mark.parametrize("root", ["s3://bucket", "s3://bucket/"])
def test_a_root_may_be_a_whole_bucket(root: str) -> None:
    assert may_read("s3://bucket/a/b.jsonl", (root,))
    assert not may_read("s3://bucket2/a/b.jsonl", (root,))


def _content(url: str, *roots: str) -> bytes:
    return b"".join(open_input(url, roots))


@pytest.mark.parametrize("name", ["a.jsonl", "a b.jsonl", "100%.jsonl", "a?b#c.jsonl", "%2e%2e"])
def test_a_file_is_opened_by_the_name_that_was_checked(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"content")
    assert _content(file.as_uri(), tmp_path.as_uri()) == b"content"


def test_a_percent_sign_is_not_decoded_twice(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    root = f"{tmp_path.as_uri()}/in"
    with pytest.raises(InputUnreadable):
        _content(f"{root}/%252e%252e/secret", root)


def test_a_link_out_of_the_roots_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    root = f"{tmp_path.as_uri()}/in"
    for url in (f"{root}/link", f"{root}/up/secret"):
        with pytest.raises(InputUnreadable, match="leads out of the allowed input roots"):
            _content(url, root)


def test_a_link_within_the_roots_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_bytes(b"content")
    (tmp_path / "in").symlink_to(tmp_path / "real")
    assert _content(f"{tmp_path.as_uri()}/in/a", f"{tmp_path.as_uri()}/in") == b"content"


@pytest.mark.parametrize(
    "name",
    ["nothing", "folder", "", "pipe", "socket", "loop", "file/below", "long" * 100],
)
def test_what_is_no_file_is_unreadable(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as listener:
        folder = os.open(tmp_path, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{folder}/socket")  # the whole path may be too long for one
        os.close(folder)
        with pytest.raises(InputUnreadable, match="is not a file that can be read"):
            _content(f"{tmp_path.as_uri()}/{name}", tmp_path.as_uri())


def test_a_link_that_is_swapped_while_it_is_opened_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "in" / "fine").write_bytes(b"fine")
    url = f"{tmp_path.as_uri()}/in/link"
    done = threading.Event()

    def swap() -> None:
        targets = cycle([tmp_path / "secret", tmp_path / "in" / "fine"])
        while not done.is_set():
            (tmp_path / "new").symlink_to(next(targets))
            (tmp_path / "new").replace(tmp_path / "in" / "link")

    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "fine")
    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = Counter[str]()
    try:
        for _ in range(3_000):
            try:
                seen[_content(url, f"{tmp_path.as_uri()}/in").decode()] += 1
            except InputUnreadable:
                seen["refused"] += 1
    finally:
        done.set()
        swapping.join()
    assert set(seen) == {"fine", "refused"}


def test_an_input_is_checked_again_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    with pytest.raises(InputUnreadable, match="does not lie under"):
        _content(f"{tmp_path.as_uri()}/a", "file:///elsewhere")


def test_metadata_nests_no_deeper_than_can_be_shown() -> None:
    def nested(depth: int) -> bytes:
        inner = b"[" * (depth - 1) + b"]" * (depth - 1)
        return b'{"endpoint":"/v1/chat/completions","requests":[],"metadata":{"a":' + inner + b"}}"

    read_spec(nested(100), Permissions())
    with pytest.raises(BadInput, match="nests too deep"):
        read_spec(nested(101), Permissions())
