"""The `check` of a spec: what is taken, what is refused, and what the words mean."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rules.checks import CHECK_BYTES, MOST_CHECKS, Said, check_problem, is_json, read_check


def nested(levels: int) -> Any:
    return {"items": nested(levels - 1)} if levels else {}


DEFS = {"$defs": {"a": {"type": "integer"}}, "properties": {"n": {"$ref": "#/$defs/a"}}}


@pytest.mark.parametrize(
    "check",
    [
        "complete",
        "nonempty",
        "json",
        ["json", "complete", {"regex": "^a"}],
        {"regex": r"(?i)^(yes|no)\.?$"},
        {"regex": "(a+)+$"},
        {"json_schema": {"type": "object", "required": ["a"]}},
        {"json_schema": {**DEFS, "$id": "https://example.com/a"}},
        {"json_schema": {**DEFS, "$schema": "http://json-schema.org/draft-07/schema#"}},
        {"json_schema": {"properties": {"$ref": {"type": "string"}}}},
        {"json_schema": {"properties": {"child": {"$ref": "#"}}}},
        {"json_schema": nested(50)},
        {"json_schema": False},
    ],
    ids=lambda check: str(check)[:40],
)
def test_a_check_that_can_be_run_is_taken(check: Any) -> None:
    assert check_problem(check) is None


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ("xml", "'xml' is unknown; use"),
        ("", "is unknown"),
        (["json", 7], "'7' is unknown"),
        ([], f"1 to {MOST_CHECKS} checks"),
        (["json"] * (MOST_CHECKS + 1), f"1 to {MOST_CHECKS} checks"),
        ([["json"]], "is unknown"),
        ({}, "use"),
        ({"regex": "a", "json_schema": {}}, "use"),
        ({"regex": 7}, "use"),
        ({"json_schema": "a"}, "use"),
        ({"schema": {}}, "['schema']"),
        ({"regex": "("}, "`regex` cannot be used"),
        ({"regex": "(?=a)b"}, "no lookaround"),
        ({"regex": r"(a)\1"}, "no backreference"),
        ({"regex": "(a{1000}){1000}"}, "no large repetition"),
        ({"json_schema": {"pattern": "(?=a)b"}}, "/pattern"),
        ({"json_schema": {"type": "strng"}}, "(/type) cannot be used"),
        ({"json_schema": {"multipleOf": 0}}, "(/multipleOf)"),
        ({"json_schema": {"$ref": "#/$defs/none"}}, "does not exist"),
        ({"json_schema": {"$ref": "https://example.com/a"}}, "nothing is fetched"),
        ({"json_schema": {"$ref": "file:///etc/passwd"}}, "nothing is fetched"),
        ({"json_schema": {"items": [{"$dynamicRef": "other.json"}]}}, "nothing is fetched"),
        ({"json_schema": {"$schema": "https://example.com/own"}}, "Unknown meta-schema"),
        ({"json_schema": {"maximum": 10**400}}, "out of range"),
        ({"json_schema": {"maximum": 1e301}}, "out of range"),
        ({"json_schema": {"enum": ["x" * CHECK_BYTES]}}, "32,768"),
        ({"json_schema": nested(100)}, "levels deep"),
        ({"json_schema": nested(900)}, "levels deep"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_check_that_cannot_be_run_is_refused(check: Any, words: str) -> None:
    problem = check_problem(check)
    assert problem is not None
    assert words in problem
    assert "`check`" in problem
    assert "\n" not in problem
    assert len(problem) < 600


@pytest.mark.parametrize(
    ("check", "said", "reason"),
    [
        ("complete", Said(("a",)), None),
        ("complete", Said(("",), is_empty=True), None),
        ("complete", Said(("a",), is_cut=True), "it was cut by the token limit"),
        ("nonempty", Said(("a",), is_cut=True), None),
        ("nonempty", Said(("a", ""), is_empty=True), "it is empty"),
        ("json", Said(('{"a": [1]}', " 7 ")), None),
        ("json", Said(('{"a": 1}', "seven")), "it is not JSON"),
        (["json", "complete"], Said(("7",), is_cut=True), "it was cut by the token limit"),
        (["json", "complete"], Said(("7",)), None),
    ],
)
def test_the_words_mean_what_they_say(check: Any, said: Said, reason: str | None) -> None:
    assert read_check(check).reason(said) == reason


@given(st.text() | st.recursive(st.none() | st.floats(), st.lists).map(json.dumps))
def test_what_counts_as_json_is_json(text: str) -> None:
    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        json.loads(text, parse_constant=refuse)
        expected = True
    except ValueError:
        expected = False
    assert is_json(text) is expected
