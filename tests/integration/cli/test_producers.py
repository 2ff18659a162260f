"""`haulier producer` and `haulier token`, as processes against a real API."""

import json
import os
from pathlib import Path

import pytest

from tests.api import TOKEN, Api
from tests.cli import Cli, Ended


class Operator:
    """Somebody who has the admin token, or shows another."""

    def __init__(self, api: Api, directory: Path) -> None:
        self._cli = Cli(api.url, directory, dict(os.environ))

    def __call__(self, *arguments: str, token: str = TOKEN) -> Ended:
        return self._cli(*arguments, HAULIER_TOKEN=token)


@pytest.fixture
def operator(api: Api, tmp_path: Path) -> Operator:
    return Operator(api, tmp_path)


def test_an_operator_adds_a_producer_and_keeps_its_tokens(operator: Operator) -> None:
    added = operator("producer", "add", "billing", "--account", "*", "--open-requests", "7")
    first = added.out.strip()
    assert (added.status, len(first)) == (0, len("haulier__") + 16 + 43)
    assert operator("jobs", token=first).status == 0

    changed = operator(
        "producer",
        "set",
        "billing",
        "--account",
        "",
        "--notice-task",
        "b.done",
        "--private-webhook",
        "10.1.0.0/16",
        "--stored-bytes",
        "9",
    )
    assert "accounts          none" in changed.out
    assert "open requests     7" in changed.out
    assert "private webhooks  10.1.0.0/16" in changed.out
    assert "stored bytes      9" in changed.out
    listed = operator("producer", "list", "--json").documents
    assert [one["name"] for one in listed] == ["billing", "default"]

    scoped = operator("token", "add", "billing", "--scope", "read", "--expires-in", "1d", "--json")
    token_id = str(json.loads(scoped.out)["id"])
    rotated = operator("token", "rotate", "billing", token_id)
    assert operator("jobs", token=rotated.out.strip()).status == 0
    assert operator("token", "revoke", "billing", first.split("_")[1]).status == 0
    assert operator("jobs", token=first).status == 2
    shown = operator("token", "list", "billing")
    assert token_id in shown.out
    assert operator("producer", "secret", "billing").out.startswith("whsec_")


def test_an_operator_disables_enables_and_removes_a_producer(operator: Operator) -> None:
    token = operator("producer", "add", "billing").out.strip()
    disabled = operator("producer", "disable", "billing")
    assert "disabled at       20" in disabled.out
    assert operator("jobs", token=token).status == 2
    assert "disabled at       no" in operator("producer", "enable", "billing").out
    assert operator("jobs", token=token).status == 0

    assert operator("producer", "remove", "billing").err == "removed: billing\n"
    again = operator("producer", "remove", "billing")
    assert (again.status, again.out) == (2, "")
    assert "there is no such producer" in again.err
    assert "disable it instead" in operator("producer", "remove", "default").err


def test_what_cannot_be_done_ends_with_2_and_a_reason(operator: Operator) -> None:
    assert "there is no such producer" in operator("token", "add", "nobody").err
    odd = operator("token", "add", "default", "--expires-in", "soon")
    assert odd.status == 2
    assert "such as 90d" in odd.err
    unknown = operator("producer", "add", "x", "--account", "research")
    assert (unknown.status, unknown.out) == (2, "")
    assert "'research' is not configured" in unknown.err
