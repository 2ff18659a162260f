"""Other custom_ids for requests in shared batches, and the way back."""

import json
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rules.shared_ids import prefix_of, renamed, shared_ids

JOB = UUID("0190c3a0-7b1f-7c2e-9d55-abcdefabcdef")


def test_a_shared_id_is_short_and_says_whose_it_is() -> None:
    assert shared_ids(JOB, [7])[0] == "AZDDoHsffC6dVavN76vN7w-7"
    assert len(shared_ids(uuid4(), [99_999_999])[0]) <= 31
    assert shared_ids(JOB, [12])[0].startswith(prefix_of(JOB))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"custom_id":"a","body":{"x":1}}', b'{"custom_id":"N","body":{"x":1}}\n'),
        (b'{"custom_id": "a", "body": {} }\r\n', b'{"custom_id": "N", "body": {} }\n'),
        (b'{"body": {"x":  1.50}, "custom_id":"a"}', b'{"body": {"x":  1.50}, "custom_id":"N"}\n'),
        # The same words elsewhere.
        (
            b'{"custom_id":"a","body":{"t":"\\"custom_id\\":\\"a\\""}}',
            b'{"custom_id":"N","body":{"t":"\\"custom_id\\":\\"a\\""}}\n',
        ),
        (
            b'{"body":{"custom_id":"a"},"custom_id":"a"}',
            b'{"body":{"custom_id":"a"},"custom_id":"N"}\n',
        ),
        # Written in another way.
        (b'{"custom_id" :"a","body":{"x":1.50}}', b'{"custom_id":"N","body":{"x":1.50}}\n'),
        (b'{"custom\\u005fid":"a","n":1e5}', b'{"custom_id":"N","n":1e5}\n'),
        # Almost JSON, as the provider may send it.
        (b'{"custom_id":"a","n":NaN}', b'{"custom_id":"N","n":NaN}\n'),
        (b'{"n":NaN,"custom_id" : "a"}', b'{"n":NaN,"custom_id" : "N"}\n'),
    ],
)
def test_only_the_custom_id_changes(line: bytes, expected: bytes) -> None:
    assert renamed(line, "a", "N") == expected


def test_a_line_without_the_custom_id_is_refused() -> None:
    with pytest.raises(ValueError, match="does not stand in the line"):
        renamed(b'{"n":NaN}', "a", "N")


names = st.text(min_size=1, max_size=64).filter(lambda name: "\x00" not in name)
content = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(name=names, body=content, ascii_only=st.booleans(), first=st.booleans())
def test_the_way_there_and_back_changes_nothing_else(
    name: str, body: object, ascii_only: bool, first: bool
) -> None:
    fields = {"custom_id": name, "body": body} if first else {"body": body, "custom_id": name}
    line = json.dumps(fields, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    if b"\xed" in line:
        line = json.dumps(fields).encode()
    there = renamed(line, name, shared_ids(JOB, [3])[0])
    assert msgspec.json.decode(there)["custom_id"] == shared_ids(JOB, [3])[0]
    back = renamed(there, shared_ids(JOB, [3])[0], name)
    assert json.loads(back) == json.loads(line)
