"""Bodies that are large, that lie, or that never end."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from tests.api import TOKEN, Api, client, jsonl, post_lines, problem, started_url
from tests.eventually import eventually
from tests.factories import CHAT, chat_line
from tests.processes import Running

LINES = f"POST /v1/jobs?endpoint={CHAT} HTTP/1.1"
JSON = "POST /v1/jobs HTTP/1.1"
NDJSON = "Content-Type: application/x-ndjson"


def connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def head(request: str, *headers: str) -> bytes:
    fields = ["Host: here", f"Authorization: Bearer {TOKEN}", *headers]
    return "\r\n".join([request, *fields, "", ""]).encode()


def answer_to(url: str, sent: bytes, *, half_closed: bool = False) -> tuple[int, bytes]:
    """The status and the rest of what comes back until the connection ends."""
    with connected(url) as connection:
        connection.sendall(sent)
        if half_closed:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    status = int(received.split(b" ", 2)[1])
    return status, received


def many_lines(count: int, width: int) -> Iterator[bytes]:
    """Lines of about `width` bytes, in pieces of a thousand."""
    pad = "x" * width
    model = f'"model": "m/x", "pad": "{pad}"'
    for start in range(0, count, 1000):
        yield "".join(
            f'{{"custom_id": "request-{number}", "body": {{{model}}}}}\n'
            for number in range(start, min(start + 1000, count))
        ).encode()


def peak_memory(pid: int) -> int:
    """The most bytes that a process ever had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_large_body_is_taken_in_constant_memory(api_process: Running) -> None:
    with client(started_url(api_process)) as http:

        def submit(count: int) -> int:
            answer = http.post(
                "/v1/jobs",
                params={"endpoint": CHAT},
                content=many_lines(count, 1000),
                headers={"Content-Type": "application/x-ndjson"},
            )
            assert answer.status_code == 201, answer.text
            assert answer.json()["total"] == count
            return peak_memory(api_process.pid)

        before = submit(1000)
        # 200 MB. What grows is a set of custom_ids and the places of one shard's lines.
        assert submit(200_000) - before < 120_000_000


def test_the_api_answers_others_while_a_body_arrives(api: Api) -> None:
    def slowly() -> Iterator[bytes]:
        yield jsonl("a", "b")
        gate.wait(30)
        yield jsonl("c")

    gate = threading.Event()
    totals: list[int] = []
    thread = threading.Thread(
        target=lambda: totals.append(post_lines(api, slowly()).json()["total"])
    )
    thread.start()
    with client(api.url) as other:
        assert other.get("/v1/jobs").json()["data"] == []
    gate.set()
    thread.join(timeout=30)

    assert totals == [3]


def test_a_client_that_goes_away_in_the_middle_leaves_no_job(api_process: Running) -> None:
    url = started_url(api_process)
    whole = jsonl("a", "b", "c")
    with connected(url) as connection:
        connection.sendall(head(LINES, NDJSON, f"Content-Length: {len(whole) + 1}") + whole)

    def answered() -> list[int]:
        lines = [msgspec.json.decode(line) for line in api_process.output.splitlines()]
        return [line["status"] for line in lines if line["event"] == "request_answered"]

    assert eventually(answered) == [400]
    with client(url) as http:
        assert http.get("/v1/jobs").json()["data"] == []
    assert '"level": "error"' not in api_process.output


@pytest.mark.parametrize("request_line", [LINES, JSON])
def test_a_body_shorter_than_its_length_is_refused(refusing_api: Api, request_line: str) -> None:
    kind = NDJSON if request_line == LINES else "Content-Type: application/json"
    sent = head(request_line, kind, "Content-Length: 1000") + jsonl("a")

    status, answer = answer_to(refusing_api.url, sent, half_closed=True)

    assert status == 400
    assert b"urn:haulier:problem:broken-body" in answer
    assert refusing_api.http.get("/v1/jobs").json()["data"] == []


def test_what_stands_behind_the_length_of_a_body_is_not_part_of_it(api: Api) -> None:
    length = f"Content-Length: {len(jsonl('a'))}"
    sent = head(LINES, NDJSON, length) + jsonl("a", "b") + b"\r\n\r\n"

    status, answer = answer_to(api.url, sent)

    assert status == 201
    assert b"HTTP/1.1 400 " in answer  # read as another request, it is no good one
    assert [job["total"] for job in api.http.get("/v1/jobs").json()["data"]] == [1]


BROKEN = [
    (["Transfer-Encoding: chunked"], b"zz\r\nnot a chunk\r\n"),
    (["Transfer-Encoding: chunked"], b'5\r\n{"a":1}}}}\r\n0\r\n\r\n'),
    (["Transfer-Encoding: chunked"], b"-5\r\nabcde\r\n0\r\n\r\n"),
    (["Transfer-Encoding: gzip, chunked"], b"0\r\n\r\n"),
    (["Content-Length: many"], b"{}"),
    (["Content-Length: -1"], b"{}"),
    (["Content-Length: 5", "Content-Length: 6"], b"{}"),
]


@pytest.mark.parametrize(("headers", "content"), BROKEN)
def test_broken_framing_is_refused(refusing_api: Api, headers: list[str], content: bytes) -> None:
    status, answer = answer_to(refusing_api.url, head(LINES, NDJSON, *headers) + content)

    assert status in {400, 501}
    assert b"application/problem+json" in answer
    assert refusing_api.http.get("/v1/jobs").json()["data"] == []


def test_what_is_no_http_is_refused_with_a_problem_document(refusing_api: Api) -> None:
    status, answer = answer_to(refusing_api.url, b"hello\r\n\r\n")

    assert status == 400
    assert b"urn:haulier:problem:broken-body" in answer


def test_a_chunked_body_that_stops_is_refused(refusing_api: Api) -> None:
    line = chat_line("a") + b"\n"
    chunk = f"{len(line):x}\r\n".encode() + line + b"\r\n"

    status, _ = answer_to(
        refusing_api.url,
        head(LINES, NDJSON, "Transfer-Encoding: chunked") + chunk,
        half_closed=True,
    )

    assert status == 400
    assert refusing_api.http.get("/v1/jobs").json()["data"] == []


def test_a_body_that_is_not_wanted_is_answered_all_the_same(refusing_api: Api) -> None:
    answer = post_lines(refusing_api, many_lines(50_000, 200), colour="red")

    assert answer.status_code == 422
    assert refusing_api.http.get("/v1/jobs").status_code == 200


def test_a_client_that_waits_for_leave_to_send_gets_it(api: Api) -> None:
    content = jsonl("a")
    with connected(api.url) as connection:
        length = f"Content-Length: {len(content)}"
        connection.sendall(head(LINES, NDJSON, length, "Expect: 100-continue"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(content)
        assert connection.recv(1000).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("path", ["producers", "producers/a/tokens", "jobs/x/retry"])
def test_a_body_that_is_read_whole_is_bounded(refusing_api: Api, path: str) -> None:
    answer = refusing_api.http.post(
        f"/v1/{path}",
        content=(b" " * 1_000_000 for _ in range(20)),
        headers={"Content-Type": "application/json"},
    )

    assert problem(answer, 413)["type"] == "urn:haulier:problem:too-large"
