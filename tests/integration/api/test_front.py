"""Clients that hold on to connections, and callers who are not known: raw sockets."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from select import select

import pytest
from sqlalchemy import text

from config.settings import Settings
from service.api import app, gate, memory, protocol
from service.store.producers import add_producer
from tests.api import TOKEN, Api, chat, client, jsonl, post_lines, serving, started_url
from tests.eventually import eventually
from tests.factories import chat_line
from tests.integration.api.test_bodies import (
    LINES,
    NDJSON,
    answer_to,
    connected,
    head,
    peak_memory,
)
from tests.processes import Running


def received(connection: socket.socket) -> bytes:
    """What comes until the connection ends."""
    data = b""
    with suppress(ConnectionError):
        while piece := connection.recv(65536):
            data += piece
    return data


def send_slowly(connection: socket.socket, piece: bytes) -> None:
    """Send the piece again and again, for ten seconds or until the connection is cut."""
    for _ in range(500):
        connection.sendall(piece)
        time.sleep(0.02)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    monkeypatch.setattr(protocol, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(protocol, "BODY_PATIENCE", 0.5)
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 0.3)


# --- strangers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_line",
    [
        "POST /v1/producers",
        "POST /v1/jobs",
        "POST /v1/jobs/x/retry",
        "PUT /v1/jobs",  # a wrong method
        "POST /v1/nothing",
        "POST /nothing",  # / itself leads to the console, and reads nothing either
        "POST /together/v1/files",
        "POST /together/v1/batches",
        "PUT /together/v1/nothing",
        "POST /together/v1/v1/files/x/bytes",
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x"])
def test_nothing_of_a_strangers_body_is_waited_for(
    refusing_api: Api, request_line: str, kind: str
) -> None:
    for bearer in ("", "Authorization: Bearer wrong\r\n"):
        sent = f"{request_line} HTTP/1.1\r\nHost: here\r\n{bearer}Content-Type: {kind}\r\n"
        status, answer = answer_to(
            refusing_api.url, f"{sent}Content-Length: 8000000\r\n\r\n".encode()
        )

        assert status == 401
        assert b"\r\nconnection: close\r\n" in answer.lower()
        form = b'"authentication_error"' if "/together/" in request_line else b"urn:haulier:problem"
        assert form in answer


def test_an_upload_with_a_wrong_key_is_refused_before_its_body(refusing_api: Api) -> None:
    sent = "PUT /together/v1/files/file-x/bytes?key=wrong HTTP/1.1\r\nHost: here\r\n"

    status, _ = answer_to(refusing_api.url, f"{sent}Content-Length: 8000000\r\n\r\n".encode())

    assert status == 404


def test_a_refused_body_is_not_read_without_end(refusing_api: Api, quick: None) -> None:
    with connected(refusing_api.url) as connection:
        start = "POST /v1/jobs HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(start.encode())
        with pytest.raises(ConnectionError):
            send_slowly(connection, b"5\r\nhello\r\n")


def test_who_waits_for_leave_to_send_a_body_is_refused_without_it(refusing_api: Api) -> None:
    sent = "POST /v1/jobs HTTP/1.1\r\nHost: here\r\nExpect: 100-continue\r\n"

    status, answer = answer_to(refusing_api.url, f"{sent}Content-Length: 9\r\n\r\n".encode())

    assert status == 401
    assert b"100 Continue" not in answer


# --- deadlines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET /v1/jobs HTTP/1.1\r\nHost: here\r\nX-Slow: "])
def test_a_connection_without_a_request_ends(refusing_api: Api, quick: None, sent: bytes) -> None:
    with connected(refusing_api.url) as connection:
        connection.sendall(sent)

        assert received(connection) == b""


def test_a_head_that_comes_byte_by_byte_ends(refusing_api: Api, quick: None) -> None:
    with connected(refusing_api.url) as connection, pytest.raises(ConnectionError):
        send_slowly(connection, b"a")


def test_an_idle_connection_ends(api_settings: Settings) -> None:
    moment = timedelta(seconds=0.5)
    settings = api_settings.model_copy(update={"keep_alive_seconds": moment})
    with serving(settings) as api, connected(api.url) as connection:
        connection.sendall(head("GET /v1/jobs HTTP/1.1"))

        assert received(connection).startswith(b"HTTP/1.1 200 ")


def test_a_second_request_has_the_same_deadline(refusing_api: Api, quick: None) -> None:
    with connected(refusing_api.url) as connection:
        connection.sendall(head("GET /v1/jobs HTTP/1.1"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET /v1/jobs HTTP/1.1\r\n")

        assert b"HTTP/1.1" not in received(connection)


@pytest.mark.parametrize(
    ("request_line", "kind"),
    [
        (LINES, NDJSON),
        ("POST /v1/jobs HTTP/1.1", "Content-Type: application/json"),
        ("POST /v1/producers HTTP/1.1", "Content-Type: application/json"),
        ("POST /together/v1/files HTTP/1.1", "Content-Type: multipart/form-data; boundary=x"),
    ],
)
def test_a_body_that_stops_is_not_waited_for_forever(
    api: Api, quick: None, request_line: str, kind: str
) -> None:
    sent = head(request_line, kind, "Content-Length: 1000") + b"--x\r\n"

    status, answer = answer_to(api.url, sent)

    assert status == 408
    assert b"urn:haulier:problem:slow-body" in answer
    assert api.http.get("/v1/jobs").json()["data"] == []


def test_a_body_must_keep_a_pace(api: Api, quick: None, capfd: pytest.CaptureFixture[str]) -> None:
    with connected(api.url) as connection:
        connection.sendall(head(LINES, NDJSON, "Content-Length: 10000000") + jsonl("a"))
        connection.settimeout(0.02)
        answer = b""
        for _ in range(500):
            with suppress(TimeoutError):
                answer = connection.recv(65536)
                break
            connection.sendall(b" ")  # 50 bytes a second

    assert answer.startswith(b"HTTP/1.1 408 ")
    eventually(lambda: "408" in "".join(capfd.readouterr()))  # in the log as well


def test_a_slow_but_steady_body_is_taken(
    api: Api, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_BYTES_PER_SECOND", 100)
    whole = jsonl("a")
    with connected(api.url) as connection:
        connection.sendall(head(LINES, NDJSON, f"Content-Length: {len(whole)}"))
        for at in range(0, len(whole), 10):  # for a second or more
            connection.sendall(whole[at : at + 10])
            time.sleep(0.08)

        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")


def test_a_body_has_a_deadline_as_a_whole(
    api: Api, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.5)
    with connected(api.url) as connection:
        connection.sendall(head(LINES, NDJSON, "Transfer-Encoding: chunked"))
        line = chat_line("a") + b"\n"
        with suppress(ConnectionError):
            send_slowly(connection, b"%x\r\n%b\r\n" % (len(line), line))

        assert received(connection).startswith(b"HTTP/1.1 408 ")


# --- how many ----------------------------------------------------------------------------------


@pytest.fixture
def crowded(api_settings: Settings) -> Iterator[Callable[..., Api]]:
    """An API with room for few connections."""
    with ExitStack() as stack:
        yield lambda **most: stack.enter_context(serving(api_settings.model_copy(update=most)))


def test_those_who_send_nothing_make_room_for_those_who_do(crowded: Callable[..., Api]) -> None:
    api = crowded(max_connections=5)
    assert api.http.get("/v1/jobs").status_code == 200
    with ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(connected(api.url))
            connection.sendall(b"GET /v1/jobs HTTP/1.1\r\n")
        with client(api.url) as other:
            assert other.get("/v1/jobs").status_code == 200
        # A client that has been answered before keeps its connection.
        assert api.http.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize(
    ("most", "status"),
    [
        ({"max_connections": 3}, b"503"),
        ({"max_connections_per_address": 3}, b"503"),
        ({"max_connections_per_address": 3, "trusted_proxies": (ip_network("127.0.0.1"),)}, b"200"),
    ],
)
def test_connections_that_are_busy_are_limited(
    crowded: Callable[..., Api], most: dict[str, object], status: bytes
) -> None:
    api = crowded(**most)
    api.http.close()
    with ExitStack() as stack:
        for _ in range(3):
            busy = stack.enter_context(connected(api.url))
            busy.sendall(head(LINES, NDJSON, "Content-Length: 1000", "Expect: 100-continue"))
            assert busy.recv(1000).startswith(b"HTTP/1.1 100 ")
        newcomer = stack.enter_context(connected(api.url))
        newcomer.sendall(head("GET /v1/jobs HTTP/1.1", "Connection: close"))

        answer = received(newcomer)

        assert answer.split()[1] == status
        if status == b"503":
            assert b"urn:haulier:problem:too-many-connections" in answer
            assert b"retry-after: " in answer.lower()
    with client(api.url) as other:
        eventually(lambda: other.get("/v1/jobs").status_code == 200)


def test_strangers_that_wait_to_be_looked_up_are_few_and_keep_no_known_token_out(
    crowded: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = crowded()
    token = add_producer(first.db, "known").text
    bearer = {"Authorization": f"Bearer {token}"}
    assert first.http.get("/v1/jobs", headers=bearer).status_code == 200
    monkeypatch.setattr(gate, "STRANGERS", 0)

    after_a_start = crowded()

    # Its uses before the start are known as soon as they are read.
    assert eventually(lambda: after_a_start.http.get("/v1/jobs", headers=bearer).is_success)
    assert after_a_start.http.get("/v1/jobs").is_success
    for stranger in (token[:-1] + ("A" if token[-1] != "A" else "B"), "x"):
        refusal = after_a_start.http.get(
            "/v1/jobs", headers={"Authorization": f"Bearer {stranger}"}
        )
        assert refusal.status_code == 503
        assert refusal.headers["retry-after"]


# --- memory ------------------------------------------------------------------------------------


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "STREAM", 100_000)
    monkeypatch.setattr(memory, "WAITING", 32_000)
    monkeypatch.setattr(app, "Memory", lambda: memory.Memory(most=300_000, share=200_000))


def sending(stack: ExitStack, api: Api, token: str) -> socket.socket:
    """A connection on which 150 kB of a spec are sent, but not its end."""
    connection = stack.enter_context(connected(api.url))
    fields = ["Content-Type: application/json", "Content-Length: 150001"]
    sent = head("POST /v1/jobs HTTP/1.1", *fields).replace(TOKEN.encode(), token.encode())
    connection.sendall(sent + b" " * 150_000)
    return connection


def refused(senders: list[socket.socket]) -> bytes:
    """The answer to the one that is refused. The others are still waited for."""
    ready, _, _ = select(senders, [], [], 30)
    (sender,) = ready
    senders.remove(sender)
    return received(sender)


def test_what_is_held_of_bodies_is_bounded_for_a_producer_and_over_all(
    small_memory: None, api: Api
) -> None:
    tokens = [add_producer(api.db, name).text for name in ("one", "two")]
    with ExitStack() as stack:
        senders = [sending(stack, api, tokens[0]) for _ in range(2)]
        over_share = refused(senders)
        senders += [sending(stack, api, token) for token in (tokens[1], TOKEN)]
        over_all = refused(senders)
        assert len(senders) == 2
    for answer, status, kind in (
        (over_share, b"429", b"over-limit"),
        (over_all, b"503", b"too-many-bodies"),
    ):
        assert answer.split()[1] == status
        assert b"urn:haulier:problem:" + kind in answer
        assert b"retry-after: " in answer.lower()
    # What is given back can be had again.
    content = json.dumps(chat("a")).encode().ljust(190_000)
    fields = {"Content-Type": "application/json"}
    eventually(lambda: api.http.post("/v1/jobs", content=content, headers=fields).is_success)


def test_a_large_body_that_is_held_has_less_time_than_one_that_is_written_on(
    small_memory: None, monkeypatch: pytest.MonkeyPatch, api: Api
) -> None:
    monkeypatch.setattr(memory, "HELD_SECONDS", -1.0)
    with ExitStack() as stack:
        answer = refused([sending(stack, api, TOKEN)])

    assert answer.split()[1] == b"408"
    assert b"urn:haulier:problem:slow-body" in answer
    assert api.http.post("/v1/jobs", json=chat("a")).status_code == 201
    assert post_lines(api, jsonl(*map(str, range(5000)))).status_code == 201


def test_a_stream_takes_no_more_than_a_block(small_memory: None, api: Api) -> None:
    lines = jsonl(*map(str, range(5000)))
    assert len(lines) > 300_000

    assert post_lines(api, lines).status_code == 201


def test_calls_that_wait_for_their_bodies_are_few_for_each_producer(
    small_memory: None, api: Api
) -> None:
    tokens = [add_producer(api.db, name).text for name in ("one", "two")]
    started = head("POST /v1/jobs HTTP/1.1", "Content-Type: application/json", "Content-Length: 9")
    with ExitStack() as stack:

        def start(token: str) -> socket.socket:
            connection = stack.enter_context(connected(api.url))
            connection.sendall(started.replace(TOKEN.encode(), token.encode()))
            return connection

        bearer = {"Authorization": f"Bearer {tokens[0]}"}
        job = api.http.post("/v1/jobs", json=chat("a"), headers=bearer).json()["id"]
        waiting = [start(tokens[0]) for _ in range(200_000 // memory.WAITING + 1)]
        answer = refused(waiting)
        # What has no body is in nobody's way, however long it lasts.
        path = f"/v1/jobs/{job}/progress"
        with api.http.stream("GET", path, headers=bearer) as watched:
            assert watched.status_code == 200
            waiting.append(start(tokens[0]))
            assert b"429" in refused(waiting)
            assert api.http.post(f"/v1/jobs/{job}/cancel", headers=bearer).is_success
            assert b"event: progress" in next(watched.iter_raw())
        assert answer.split()[1] == b"429"
        assert b"urn:haulier:problem:over-limit" in answer
        other = start(tokens[1])
        other.sendall(b"{}       ")
        assert other.recv(1000).startswith(b"HTTP/1.1 422 ")


def test_who_sends_far_ahead_is_cut_off(api: Api, capfd: pytest.CaptureFixture[str]) -> None:
    content = json.dumps(chat("a")).encode()
    fields = ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    with connected(api.url) as connection:
        connection.sendall(head("POST /v1/jobs HTTP/1.1", *fields, "Expect: 100-continue"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        with suppress(ConnectionError):
            connection.sendall(content + b"x" * (2 * protocol.AHEAD))
        received(connection)

    assert "sends_on" in capfd.readouterr().out


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_what_many_strangers_send_with_their_heads_does_not_fill_the_memory(
    api_process: Running,
) -> None:
    url = started_url(api_process)
    lines = ("POST /openai/v1/chat/completions HTTP/1.1", "Content-Length: 250000")
    sent = head(*lines).replace(TOKEN.encode(), b"nobody") + b" " * 240_000
    with ExitStack() as stack:
        for _ in range(800):
            connection = stack.enter_context(connected(url))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 500_000)
            connection.setblocking(False)
            with suppress(OSError):
                connection.send(sent)
        with client(url) as other:
            assert eventually(lambda: other.get("/v1/jobs").is_success, 60)
        assert peak_memory(api_process.pid) < 200_000_000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_no_number_of_bodies_fills_the_memory(api_process: Running) -> None:
    url = started_url(api_process)
    stranger = b"POST /v1/producers HTTP/1.1\r\nHost: here\r\nContent-Length: 8000000\r\n\r\n"
    spec = head(
        "POST /v1/jobs HTTP/1.1", "Content-Type: application/json", "Content-Length: 31000000"
    )
    with ExitStack() as stack, client(url) as other:
        for start in [stranger] * 30 + [spec] * 20:
            connection = stack.enter_context(connected(url))
            with suppress(ConnectionError):
                connection.sendall(start)
                for _ in range(30):
                    connection.sendall(b" " * 100_000)
        began = time.monotonic()
        assert other.get("/v1/jobs").status_code == 200
        assert time.monotonic() - began < 5  # a second, on a machine that does nothing else
        assert peak_memory(api_process.pid) < 250_000_000


# --- slow readers ------------------------------------------------------------------------------


def test_who_does_not_read_answers_holds_few_of_them_and_not_for_ever(
    api_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "DOWNLOADS_SHARE", 2)
    monkeypatch.setattr(protocol, "LOOK_SECONDS", 0.05)
    with serving(api_settings) as api, ExitStack() as stack:
        token = add_producer(api.db, "reader").text
        bearer = {"Authorization": f"Bearer {token}"}
        form = {"purpose": "batch-api", "file_name": "a.jsonl", "file_type": "jsonl"}
        sent = {name: (None, value) for name, value in form.items()}
        announced = api.http.post("/together/v1/files", files=sent, headers=bearer)
        large = b"x" * 30_000_000  # more than the system keeps for a connection
        assert api.http.put(announced.headers["location"], content=large).status_code == 200
        path = f"/together/v1/files/{announced.headers['x-together-file-id']}/content"
        for _ in range(2):
            reader = stack.enter_context(connected(api.url))
            reader.sendall(head(f"GET {path} HTTP/1.1").replace(TOKEN.encode(), token.encode()))
            assert reader.recv(1000).startswith(b"HTTP/1.1 200 ")

        refusal = api.http.get(path, headers=bearer)
        assert refusal.status_code == 503
        assert refusal.headers["retry-after"]

        monkeypatch.setattr(protocol, "ANSWER_PATIENCE", 0.2)
        assert eventually(lambda: api.http.get(path, headers=bearer).content == large)


def test_lists_that_nobody_reads_are_held_for_few_of_those_who_asked(
    api: Api, api_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = add_producer(api.db, "reader").text
    with api.db.begin() as session:
        session.execute(
            text(
                "INSERT INTO haulier.jobs (id, producer, state, endpoint, account, priority,"
                " max_attempts, metadata, notify)"
                " SELECT gen_random_uuid(), 'reader', 'accepted', 'e', 'default', 0, 3,"
                " jsonb_build_object('a', repeat('x', 16000)), '[]' FROM generate_series(1, 600)"
            )
        )
    path, bearer = "/v1/jobs?limit=1000", {"Authorization": f"Bearer {token}"}
    whole = api.http.get(path, headers=bearer)
    assert len(whole.json()["data"]) == 600
    monkeypatch.setattr(app, "Memory", lambda: memory.Memory(share=len(whole.content) * 3 // 2))
    with serving(api_settings) as small:
        with connected(small.url) as reader:
            reader.sendall(head(f"GET {path} HTTP/1.1").replace(TOKEN.encode(), token.encode()))
            assert reader.recv(1000).startswith(b"HTTP/1.1 200 ")

            refusal = small.http.get(path, headers=bearer)
            assert refusal.status_code == 429
            assert refusal.headers["retry-after"]
            assert small.http.get("/v1/jobs?limit=1", headers=bearer).is_success

        assert eventually(lambda: small.http.get(path, headers=bearer).content == whole.content)
