"""Which messages count as the same."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rules.alike import LONGEST, alike


@pytest.mark.parametrize(
    "messages",
    [
        ["Internal Server Error", "internal server error", " Internal  server\nerror "],
        ["Line 2 (within chunk): bad", "line 1,999 (within chunk): bad"],
        ["request 8f14e45fceea167a failed", "request 3c59dc048e885024 failed"],
        [
            "batch 123e4567-e89b-12d3-a456-426614174000 is lost",
            "batch 00000000-0000-0000-0000-000000000007 is lost",
        ],
        ["model 'a/b' is overloaded", 'model "c" is overloaded', "model `d e` is overloaded"],
        ["cannot read https://a.example/x?y=1", "cannot read http://10.0.0.1:80/z"],
        ["cannot read /tmp/a/b.jsonl", "cannot read /var/c.jsonl"],
        ["10.0.0.1:443 refused", "192.168.7.9 refused"],
        ["took 1.5 s", "took 20 s", "took -3 s"],
        ["req_ab12cd34 timed out", "req_zz98yy76 timed out"],
    ],
)
def test_messages_that_differ_in_numbers_ids_quotes_and_places_are_alike(
    messages: list[str],
) -> None:
    assert len({alike(message) for message in messages}) == 1, set(map(alike, messages))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Internal Server Error", "Service Unavailable"),
        ("timeout of the model", "timeout of the gateway"),
        ("it doesn't work, can't read", "it doesn't work, can't write"),
        ("code batch_client_error", "code batch_server_error"),
    ],
)
def test_messages_with_other_words_are_not(one: str, other: str) -> None:
    assert alike(one) != alike(other)


@given(st.text())
def test_any_message_has_a_text_that_is_its_own_and_short(message: str) -> None:
    text = alike(message)
    assert len(text) <= LONGEST
    assert text == text.strip()


@pytest.mark.parametrize("piece", ["a", "a-", "'", "\\", "1", "1.", "http://", "a1_", '"a', "«"])
def test_a_message_made_to_be_slow_is_not(piece: str) -> None:
    started = time.process_time()
    alike(piece * 1_000_000)
    assert time.process_time() - started < 1
