"""Where a webhook goes: to the address that was checked, under the name that was given."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from service.notices import webhooks
from service.notices.webhooks import NotDelivered, Sender, tls_context
from tests.receiver import Receiver, receiving

SECRET = "whsec_c2VjcmV0c2VjcmV0c2VjcmV0"
NAME = "hooks.example.com"


@pytest.fixture(scope="module")
def trusted() -> ssl.SSLContext:
    return tls_context()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Lets a resolver answer these addresses; what it was asked for is in the list."""

    def answer(*addresses: str) -> list[str]:
        hosts: list[str] = []

        def resolve(host: str) -> list[str]:
            hosts.append(host)
            return list(addresses)

        monkeypatch.setattr(webhooks, "resolve", resolve)
        return hosts

    return answer


def send(url: str, tls: ssl.SSLContext, *, private: bool) -> None:
    with ThreadPoolExecutor(1) as resolvers:
        sender = Sender(allow_private=private, resolvers=resolvers, tls=tls)
        asyncio.run(sender.send(url, "id", "{}", [SECRET]))


def named(receiver: Receiver) -> str:
    return receiver.url.replace("127.0.0.1", NAME)


def test_it_goes_to_the_very_address_that_was_checked_under_its_own_name(
    receiver: Receiver, asked: Callable[..., list[str]], trusted: ssl.SSLContext
) -> None:
    hosts = asked("127.0.0.1")
    send(named(receiver), trusted, private=True)
    (received,) = receiver.received
    assert hosts == [NAME]  # asked once; nobody else knows that name
    assert received.headers["host"] == urlsplit(named(receiver)).netloc
    assert received.verified(SECRET) == {}


def test_an_address_that_nobody_listens_at_gives_way_to_the_next(
    receiver: Receiver, asked: Callable[..., list[str]], trusted: ssl.SSLContext
) -> None:
    asked("127.0.0.2", "127.0.0.1")
    send(named(receiver), trusted, private=True)
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    "private", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1%1"]
)
def test_one_private_address_among_a_hosts_is_enough_to_refuse(
    receiver: Receiver, asked: Callable[..., list[str]], trusted: ssl.SSLContext, private: str
) -> None:
    asked("8.8.8.8", private)
    port = urlsplit(receiver.url).port
    with pytest.raises(NotDelivered, match="private address"):
        send(f"https://{NAME}:{port}/", trusted, private=False)
    assert receiver.received == []


def test_no_proxy_of_the_environment_is_asked(
    receiver: Receiver,
    asked: Callable[..., list[str]],
    trusted: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked("127.0.0.1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    send(named(receiver), trusted, private=True)
    assert len(receiver.received) == 1


def test_an_endpoint_that_does_not_answer_is_left_at_the_deadline(
    receiver: Receiver, trusted: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DEADLINE", timedelta(seconds=0.5))
    receiver.silent = True
    with pytest.raises(NotDelivered, match="no answer"):
        send(receiver.url, trusted, private=True)
    assert len(receiver.received) == 1
