"""Where a webhook goes: to the address that was checked, under the name that was given."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import pytest

from service.notices import webhooks
from service.notices.webhooks import MOST_ANSWER, NotDelivered, Sender, tls_context
from service.rules.addresses import EVERYWHERE, NOWHERE, Reach, reach_of
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


def send(url: str, tls: ssl.SSLContext, *, private: Reach = EVERYWHERE) -> None:
    with ThreadPoolExecutor(1) as resolvers:
        sender = Sender(resolvers=resolvers, tls=tls)
        asyncio.run(sender.send(url, "id", "{}", [SECRET], private))


def named(receiver: Receiver) -> str:
    return receiver.url.replace("127.0.0.1", NAME)


def test_it_goes_to_the_very_address_that_was_checked_under_its_own_name(
    receiver: Receiver, asked: Callable[..., list[str]], trusted: ssl.SSLContext
) -> None:
    hosts = asked("127.0.0.1")
    send(named(receiver), trusted)
    (received,) = receiver.received
    assert hosts == [NAME]  # asked once; nobody else knows that name
    assert received.headers["host"] == urlsplit(named(receiver)).netloc
    assert received.verified(SECRET) == {}


def test_an_address_that_nobody_listens_at_gives_way_to_the_next(
    receiver: Receiver, asked: Callable[..., list[str]], trusted: ssl.SSLContext
) -> None:
    asked("127.0.0.2", "127.0.0.1")
    send(named(receiver), trusted)
    assert len(receiver.received) == 1


@pytest.mark.parametrize("entry", [NAME, "127.0.0.0/8", "127.0.0.1"])
def test_a_listed_host_or_network_may_be_private_and_without_tls(
    receiver: Receiver, asked: Callable[..., list[str]], trusted: ssl.SSLContext, entry: str
) -> None:
    asked("127.0.0.1")
    send(named(receiver), trusted, private=reach_of([entry]))
    assert len(receiver.received) == 1


@pytest.mark.parametrize("answers", [["10.0.0.1"], ["127.0.0.1", "10.0.0.1"], ["8.8.8.8"]])
def test_a_name_without_tls_goes_to_listed_networks_alone(
    receiver: Receiver, asked: Callable[..., list[str]], trusted: ssl.SSLContext, answers: list[str]
) -> None:
    asked(*answers)
    with pytest.raises(NotDelivered, match="private_webhooks") as refused:
        send(named(receiver), trusted, private=reach_of(["127.0.0.0/8", "other.internal"]))
    assert receiver.received == []
    assert not [address for address in answers if address in str(refused.value)]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Inside\r\nX-Inside: inside\r\nContent-Length: 6\r\n\r\ninside",
        b"HTTP/1.1 302 Inside\r\nLocation: http://inside/\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-inside\r\n",
        b"HTTP/1.1 200 OK\r\nInside\r\n\r\n",
        b"HTTP/1.1 500 Error\r\nContent-Length: inside\r\n\r\n",
    ],
)
def test_of_what_a_private_host_says_only_the_status_is_passed_on(
    trusted: ssl.SSLContext, answer: bytes
) -> None:
    with saying(answer) as url, pytest.raises(NotDelivered) as refused:
        send(url, trusted)
    assert "inside" not in str(refused.value).lower()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Error\r\nContent-Length: 4000\r\n\r\n" + b"\x1b[2J\x00\r\nno\x9b" * 400,
        b"HTTP/1.1 \x1b[2J" + b"x" * 2000 + b"\r\n\r\n",
    ],
)
def test_of_what_a_public_host_says_the_beginning_is_passed_on_without_control_characters(
    trusted: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(webhooks, "is_public", lambda _: True)
    with saying(answer) as url, pytest.raises(NotDelivered) as refused:
        send(url, trusted)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < MOST_ANSWER + 50


@contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """A server that says this to whoever comes first."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:
        threads.submit(serve)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


@pytest.mark.parametrize(
    "private", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1%1"]
)
def test_one_private_address_among_a_hosts_is_enough_to_refuse(
    receiver: Receiver, asked: Callable[..., list[str]], trusted: ssl.SSLContext, private: str
) -> None:
    asked("8.8.8.8", private)
    port = urlsplit(receiver.url).port
    with pytest.raises(NotDelivered, match="private address"):
        send(f"https://{NAME}:{port}/", trusted, private=NOWHERE)
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
    send(named(receiver), trusted)
    assert len(receiver.received) == 1


def test_an_endpoint_that_does_not_answer_is_left_at_the_deadline(
    receiver: Receiver, trusted: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "DEADLINE", timedelta(seconds=0.5))
    receiver.silent = True
    with pytest.raises(NotDelivered, match="no answer"):
        send(receiver.url, trusted)
    assert len(receiver.received) == 1
