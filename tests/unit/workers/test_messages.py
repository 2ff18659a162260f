"""Messages of producers: what it takes to read them."""

import base64
import json
import tracemalloc
from contextlib import suppress

import pytest

from service.rules.errors import BadInput
from workers import messages
from workers.envelopes import Unreadable

MANY = b",".join([b"{}"] * 700_000)
"""Two megabytes that would become forty as objects."""


def message_of(body: bytes, /, **others: bytes) -> bytes:
    parts = {
        "headers": b'{"id": "me"}',
        "properties": b'{"body_encoding": "utf-8"}',
        "content-type": b'"application/json"',
        "body": json.dumps(body.decode()).encode(),
        **others,
    }
    return b"{%b}" % b",".join(b'"%b": %b' % (name.encode(), parts[name]) for name in parts)


@pytest.mark.parametrize(
    "raw",
    [
        message_of(b"[[%b], {}, null]" % MANY),
        message_of(b'[[], {"args": [%b]}, null]' % MANY),
        message_of(b"[[], {}, [%b]]" % MANY),
        message_of(b'{"args": [%b]}' % MANY),
        message_of(b'{"id": [%b]}' % MANY),
        message_of(b"[[], {}, null]", headers=b'{"id": "me", "x": [%b]}' % MANY),
        message_of(b"[[], {}, null]", properties=b"[%b]" % MANY),
        message_of(b"[[], {}, null]", other=b"[%b]" % MANY),
        message_of(b"", body=b"[%b]" % MANY),
    ],
    ids=["args", "kwargs", "embed", "1-args", "1-id", "headers", "properties", "other", "body"],
)
def test_no_message_becomes_many_times_its_bytes_in_memory(raw: bytes) -> None:
    tracemalloc.start()
    try:
        with suppress(Unreadable):
            assert isinstance(messages.open_message(raw).spec, BadInput)
        assert tracemalloc.get_traced_memory()[1] < 6 * len(raw)
    finally:
        tracemalloc.stop()


def test_a_large_message_is_read_as_a_small_one_is() -> None:
    spec = b'{"endpoint": "%b"}'
    for padding in (b"", b"x" * 2_000_000):
        sent = spec % padding
        for body in (
            b'[[], {"spec": %b}, null]' % sent,
            b'{"args": [], "kwargs": {"spec": %b}}' % sent,
        ):
            message = messages.open_message(message_of(body))
            assert (message.task_id, message.spec) == ("me", sent)


@pytest.mark.parametrize("named", [b'"\xff"', b"9" * 5000, b"1e400", b"[" * 50_000 + b"]" * 50_000])
def test_an_id_that_is_none_leaves_a_message_without_one(named: bytes) -> None:
    body = base64.b64encode(b'{"id": %b, "kwargs": {"spec": {}}}' % named)
    raw = message_of(body, headers=b"{}", properties=b'{"body_encoding": "base64"}')
    with pytest.raises(Unreadable):
        messages.open_message(raw)
