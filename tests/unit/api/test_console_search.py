"""The console's search: what words mean, and how they go on."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.api.console.search import LONGEST, QUALIFIERS, read_search, suggest
from service.rules.states import JobState
from service.store.search import Asked, Waiting

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
MODELS = ["meta-llama/Llama-3.3-70B", "Qwen/Qwen3"]


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("", {}),
        ("state:running state:accepted", {"states": [JobState.RUNNING, JobState.ACCEPTED]}),
        ("producer:billing account:research", {"producer": "billing", "account": "research"}),
        ('producer:"two words"', {"producer": "two words"}),
        ("model:llama", {"models": [MODELS[0]]}),
        ("model:nothing", {"models": []}),
        ("failed:>0", {"failed": (1, None)}),
        ("failed:<3 requests:>=1000", {"failed": (0, 2), "total": (1000, None)}),
        ("failed:0", {"failed": (0, 0)}),
        ("age:<2d", {"created_from": NOW - timedelta(days=2)}),
        ("age:>30min", {"created_before": NOW - timedelta(minutes=30)}),
        ("waiting:deadline waiting:lane", {"waiting": [Waiting.DEADLINE, Waiting.LANE]}),
        ("metadata.team:search", {"marks": [{"team": "search"}]}),
        ('metadata.run:"a:b c"', {"marks": [{"run": "a:b c"}]}),
        ("is:call", {"calls": True}),
        ("AB12", {"id_begins": "ab12"}),
        ("id:22ae5a98-0000", {"id_begins": "22ae5a980000"}),
    ],
)
def test_a_search_asks_for(text: str, asked: dict[str, Any]) -> None:
    found = read_search(text, NOW)

    assert found.problems == []
    assert found.asked(MODELS) == Asked(**asked)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("state:gone", "state:gone cannot be read"),
        ("failed:many", "failed:many cannot be read"),
        ("age:2d", "age:2d cannot be read"),
        ("age:", "age: cannot be read"),
        ("age:>999999w", "age:>999999w cannot be read"),
        ("colour:red", "there is no qualifier 'colour'"),
        ("metadata.:x", "there is no qualifier 'metadata.'"),
        ("hello", "'hello' is no qualifier"),
        ("abc", "'abc' is no qualifier"),
        ("f" * 33, "is no qualifier"),
        ("failed:٣", "cannot be read"),
    ],
)
def test_a_word_that_cannot_be_read_is_told_and_left_out(text: str, said: str) -> None:
    found = read_search(f"{text} producer:billing", NOW)

    assert said in found.problems[0]
    assert found.asked(MODELS) == Asked(producer="billing")


def test_odd_texts_are_searches_too() -> None:
    for text in ("\x00", '"', ':::"', "state:\x00", "a" * 10 * LONGEST, "age:<999999w" * 3):
        read_search(text, NOW)


def completions(text: str, **values: Any) -> list[str]:
    marks = values.pop("marks", [])
    return [one.completes for one in suggest(text, values, marks)]


def test_suggestions_go_on_with_the_last_word() -> None:
    assert completions("st") == ["state:"]
    assert completions("") == [name if name.endswith(".") else f"{name}:" for name in QUALIFIERS]
    assert completions("state:running pro") == ["state:running producer:"]
    assert completions("state:run", state=["running", "accepted"]) == ["state:running "]


def test_values_are_found_by_any_part_and_quoted_where_they_must_be() -> None:
    assert completions("model:llama", model=MODELS) == [f"model:{MODELS[0]} "]
    assert completions("producer:", producer=["two words"]) == ['producer:"two words" ']
    marks = [{"team": "search", "n": 3, 'b"d': "x"}, {"team": 'quo"te'}, {"team": "billing"}]
    assert completions("metadata.", marks=marks) == ["metadata.n:", "metadata.team:"]
    assert completions("x metadata.team:", marks=marks) == [
        "x metadata.team:billing ",
        "x metadata.team:search ",
    ]
