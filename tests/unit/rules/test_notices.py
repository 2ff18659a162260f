"""What `notify` may hold, which addresses are the internet's, and when to try again."""

from typing import Any

import msgspec
import pytest

from service.rules.addresses import EVERYWHERE, LOOPBACK, NOWHERE, reach_of
from service.rules.errors import BadInput
from service.rules.notices import (
    Notice,
    NoticeEvent,
    notice_problems,
)
from service.rules.permissions import Permissions
from service.rules.spec import fingerprint, read_spec
from tests.factories import CHAT, chat_request

HOOK = "https://example.com/hook"


def problems(*entries: Any, **rules: Any) -> list[str]:
    allowed = {"tasks": None, "queues": None, "private": NOWHERE, **rules}
    return notice_problems(list(entries), **allowed)


@pytest.mark.parametrize(
    "entry",
    [
        {"webhook": HOOK},
        {"webhook": "https://example.com:8443/hook?team=a"},
        {"webhook": "https://8.8.8.8/hook"},
        {"webhook": HOOK, "events": ["job.completed"], "progress": 10},
        {"task": "app.done", "queue": "app"},
        {"webhook": HOOK, "results": True},
        {"task": "app.done", "queue": "app", "results": None},
    ],
)
def test_a_good_entry_is_accepted(entry: dict[str, Any]) -> None:
    assert problems(entry) == []


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({}, "give `task` and `queue`"),
        ({"task": "t"}, "give `task` and `queue`"),
        ({"task": "t", "queue": "q", "webhook": HOOK}, "not both"),
        ({"task": "t", "queue": "haulier.transfer"}, "is Haulier's own"),
        ({"task": "haulier.create", "queue": "q"}, "is Haulier's own"),
        ({"task": "t", "queue": "unacked"}, "is Haulier's own"),
        ({"task": "t", "queue": "_kombu.binding.q"}, "queue: use up to 200"),
        ({"task": "t", "queue": "q\x06\x16"}, "queue: use up to 200"),
        ({"webhook": HOOK, "progress": 0}, "`notify`: "),
        ({"webhook": HOOK, "progress": 51}, "`notify`: "),
        ({"webhook": HOOK, "events": ["job.done"]}, "`notify`: "),
        ({"webhook": HOOK, "events": ["job.progress"]}, "with its step"),
        ({"webhook": HOOK, "results": "yes"}, "`notify`: "),
        ({"webhook": HOOK, "colour": "red"}, "unknown field `colour`"),
        ({"webhook": "http://example.com/"}, "must begin with https://"),
        ({"webhook": "ftp://example.com/"}, "must begin with https://"),
        ({"webhook": "https://user:secret@example.com/"}, "no user"),
        ({"webhook": "https://example.com/#part"}, "no fragment"),
        ({"webhook": "https:///hook"}, "names no host"),
        ({"webhook": "https://example.com:0/"}, "port 0"),
        ({"webhook": "https://example.com:99999/"}, "is not a URL"),
        ({"webhook": "https://[::1/"}, "is not a URL"),
        ({"webhook": "https://exämple.com/"}, "is not a URL"),
        ({"webhook": "https://exa mple.com/"}, "is not a URL"),
        ({"webhook": "https://example.com\\@10.0.0.1/"}, "is not a URL"),
        ({"webhook": "https://example.com/" + "x" * 2000}, "2,000 characters"),
    ],
)
def test_a_bad_entry_is_refused_with_its_reason(entry: dict[str, Any], words: str) -> None:
    (found,) = problems(entry)
    assert words in found


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("[::1]", "[::ffff:127.0.0.1]", "[fe80::1]", "[fd00::1]", "[2002:7f00:1::]"),
        *("2130706433", "0x7f000001", "017700000001", "127.1", "localhost", "LOCALHOST."),
        "api.localhost",
    ],
)
def test_a_private_address_is_refused_unless_it_is_allowed(host: str) -> None:
    entry = {"webhook": f"https://{host}/hook"}
    (found,) = problems(entry)
    assert "is a private address" in found
    assert "HAULIER_WEBHOOK_ALLOW_PRIVATE" in found
    assert problems(entry, private=EVERYWHERE) == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://10.1.2.3:8080/hook", None),
        ("https://10.1.255.255/hook", None),
        ("http://hooks.internal/hook", None),
        ("http://HOOKS.internal./hook", None),
        ("https://hooks.internal/hook", None),
        ("https://example.com/hook", None),
        ("http://other.internal/hook", None),  # perhaps it lies in the network: seen when resolved
        ("http://10.2.0.1/hook", "10.2.0.1 is a private address"),
        ("https://[::ffff:10.2.0.1]/hook", "is a private address"),
        ("http://8.8.8.8/hook", "over https://"),
        ("http://localhost/hook", "localhost is a private address"),
        ("ftp://10.1.2.3/hook", "must begin with https:// or http://"),
    ],
)
def test_a_producer_reaches_its_own_private_hosts_and_networks(url: str, words: str | None) -> None:
    found = problems({"webhook": url}, private=reach_of(["10.1.0.0/16", "hooks.internal"]))
    assert found == [] if words is None else words in found[0]


def test_only_the_tasks_and_queues_of_the_producer_are_allowed() -> None:
    entry = {"task": "app.done", "queue": "app"}
    assert problems(entry, tasks={"app.done"}, queues={"app"}) == []
    assert "task 'app.done' is not allowed" in problems(entry, tasks=set())[0]
    assert "queue 'app' is not allowed" in problems(entry, queues={"other"})[0]


def test_more_than_ten_entries_are_refused() -> None:
    assert problems(*[{"webhook": HOOK}] * 10) == []
    assert problems(*[{"webhook": HOOK}] * 11) == ["`notify` may have 10 entries"]


def test_other_notices_make_another_submission() -> None:
    plain, noticed = (
        read_spec(
            msgspec.json.encode(
                {"endpoint": CHAT, "requests": [chat_request("a")], "notify": entries}
            ),
            Permissions(),
        )
        for entries in ([], [{"webhook": HOOK, "progress": 10, "events": ["job.failed"]}])
    )
    assert noticed.notify == [{"webhook": HOOK, "progress": 10, "events": ["job.failed"]}]
    assert fingerprint(plain, "x") != fingerprint(noticed, "x")


def test_a_bad_notice_is_a_problem_of_its_spec() -> None:
    content = {"endpoint": CHAT, "requests": [chat_request("a")], "notify": [{"webhook": "x"}]}
    with pytest.raises(BadInput, match=r"notify\[0\]"):
        read_spec(msgspec.json.encode(content), Permissions())


def test_a_host_is_one_endpoint_whatever_the_path_and_a_queue_whatever_the_task() -> None:
    assert Notice(webhook="https://Example.com/a").endpoint == "webhook example.com:443"
    assert Notice(webhook="https://example.com:443/b").endpoint == "webhook example.com:443"
    assert Notice(task="a", queue="q").endpoint == Notice(task="b", queue="q").endpoint


def test_every_end_is_told_unless_events_are_chosen() -> None:
    chosen = Notice(webhook=HOOK, events=[NoticeEvent.FAILED])
    assert Notice(webhook=HOOK).wants(NoticeEvent.COMPLETED)
    assert chosen.wants(NoticeEvent.FAILED)
    assert not chosen.wants(NoticeEvent.COMPLETED)


def test_steps_of_progress_are_counted_exactly() -> None:
    tenth = Notice(webhook=HOOK, progress=10)
    assert [tenth.steps(done, 30) for done in (0, 2, 3, 5, 6, 30)] == [0, 0, 1, 1, 2, 10]
    assert Notice(webhook=HOOK).steps(30, 30) == 0
    assert tenth.steps(0, 0) == 0


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://localhost:1/", True),
        ("http://127.9.9.9/", True),
        ("http://[::1]/", True),
        ("http://10.0.0.1/", False),
    ],
)
def test_a_machine_may_be_allowed_to_call_itself_alone(url: str, *, allowed: bool) -> None:
    assert (problems({"webhook": url}, private=reach_of(LOOPBACK)) == []) is allowed
