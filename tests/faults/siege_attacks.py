"""What a hostile producer does, all at once. Runs in a process of its own."""

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import redis

from tests.api import chat, jsonl
from tests.faults.elsewhere import on_another_machine
from tests.faults.fuzz_producers import QUEUE

IDLE = 300
HALF_HEADERS = 100
STREAMS = 50
BIG = 8_000_000
NEARLY_ALL = 31_000_000
"""The size of the specs that are held: a JSON spec may have 32 MB."""
HELD = 20
GREEDY = 3
"""Threads that submit as fast as they are answered."""
MOST_WAITING = 500
"""Messages in the queue at most: what a producer that is only greedy would do."""


@dataclass
class Siege:
    """Attacks on one API by one producer, until an instant (monotonic)."""

    url: str
    token: str
    redis_url: str
    end: float
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end

    def connect(self) -> socket.socket:
        to = urlsplit(self.url)
        return socket.create_connection((to.hostname, to.port), timeout=10)

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def note(self, what: str, status: int) -> None:
        self.counts[f"{what}: {status}"] += 1


def besiege(
    url: str, token: str, redis_url: str, seconds: float, told: "Queue[Counter[str]]"
) -> None:
    """Attack for so long, then tell what was answered."""
    on_another_machine()
    siege = Siege(url, token, redis_url, time.monotonic() + seconds)
    attacks: list[Callable[[Siege], None]] = [
        idle,
        half_headers,
        *[unknown_bodies] * 10,
        *[held_specs] * HELD,
        slow_body,
        wrong_checksums,
        guesses,
        messages,
        unread_answers,
        *[stream] * STREAMS,
        *[greedy] * GREEDY,
        endless_lines,
    ]
    threads = [
        threading.Thread(target=_again, args=(attack, siege), name=attack.__name__, daemon=True)
        for attack in attacks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, siege.end - time.monotonic()) + 5)
    told.put(siege.counts)


def _again(attack: Callable[[Siege], None], siege: Siege) -> None:
    while not siege.over:
        try:
            attack(siege)
        except (OSError, httpx.HTTPError, redis.RedisError):
            siege.counts[f"{attack.__name__}: cut off"] += 1
        time.sleep(random.uniform(0.05, 0.2))


def _hold(siege: Siege, count: int, first: bytes, then: bytes, what: str) -> None:
    """Keep connections open that send next to nothing; open again those that were closed."""
    held: list[socket.socket] = []
    try:
        while not siege.over:
            for _ in range(min(20, count - len(held))):
                connection = siege.connect()
                connection.setblocking(False)
                with suppress(OSError):
                    connection.send(first)
                held.append(connection)
                siege.counts[f"{what}: opened"] += 1
            time.sleep(0.5)
            held = [connection for connection in held if _is_open(connection, then)]
    finally:
        for connection in held:
            connection.close()


def _is_open(connection: socket.socket, then: bytes) -> bool:
    try:
        if then:
            connection.send(then)
        if connection.recv(65_536):
            return True
    except BlockingIOError:
        return True
    except OSError:
        pass
    connection.close()
    return False


def idle(siege: Siege) -> None:
    _hold(siege, IDLE, b"", b"", "idle connections")


def half_headers(siege: Siege) -> None:
    _hold(siege, HALF_HEADERS, b"GET /v1/jobs HTTP/1.1\r\n", b"X", "half headers")


def unknown_bodies(siege: Siege) -> None:
    """Large bodies without a credential."""
    answer = httpx.post(
        f"{siege.url}/v1/producers", content=_blocks(siege, BIG, 0.05), timeout=60, trust_env=False
    )
    siege.note("bodies without a credential", answer.status_code)


def held_specs(siege: Siege) -> None:
    """A spec of nearly all the bytes that one may have, and its end comes late."""
    with siege.client() as http:
        answer = http.post(
            "/v1/jobs",
            content=_blocks(siege, NEARLY_ALL, 0.1),
            headers={"Content-Type": "application/json"},
        )
        siege.note("large specs", answer.status_code)


def _blocks(siege: Siege, size: int, pause: float) -> Iterator[bytes]:
    for _ in range(0, size, 1 << 16):
        if siege.over:
            return
        yield b" " * (1 << 16)
        time.sleep(pause)


def slow_body(siege: Siege) -> None:
    """A byte now and then."""
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {siege.token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    )
    _hold(siege, 30, head.encode(), b" ", "slow bodies")


def wrong_checksums(siege: Siege) -> None:
    """Uploads that are not what was announced, to one URL and to others."""
    fields = {"purpose": "batch-api", "file_name": "a.jsonl", "file_type": "jsonl"}
    with siege.client() as http:
        answer = http.post("/together/v1/files", data={**fields, "checksum": "0" * 64})
        siege.note("announced files", answer.status_code)
        if answer.status_code == 302:
            for _ in range(5):
                sent = http.put(answer.headers["location"], content=jsonl("a", "b") * 2_000)
                siege.note("wrong checksums", sent.status_code)


def guesses(siege: Siege) -> None:
    token = f"haulier_{uuid4().hex[:16]}_{uuid4().hex}"
    answer = httpx.get(
        f"{siege.url}/v1/jobs", headers={"Authorization": f"Bearer {token}"}, trust_env=False
    )
    siege.note("guessed tokens", answer.status_code)


def messages(siege: Siege) -> None:
    """Messages that nobody can read, as fast as the queue is read."""
    with redis.Redis.from_url(siege.redis_url) as broker:
        if broker.llen(QUEUE) < MOST_WAITING:
            broker.lpush(QUEUE, *(b"\x00" * 1_000 for _ in range(20)))
            siege.counts["messages"] += 20


def unread_answers(siege: Siege) -> None:
    """Asks again and again on one connection, and reads nothing."""
    asked = (
        f"GET /v1/jobs?limit=100 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {siege.token}\r\n\r\n"
    )
    with siege.connect() as connection:
        connection.settimeout(2)
        for _ in range(200):
            connection.sendall(asked.encode())
            siege.counts["answers that nobody reads"] += 1
            if siege.over:
                return
            time.sleep(0.05)


def stream(siege: Siege) -> None:
    """Watch a job for as long as it is allowed."""
    with siege.client() as http:
        job = http.post("/v1/jobs", json=chat("a"))
        siege.note("jobs to watch", job.status_code)
        if job.status_code != 201:
            time.sleep(1)
            return
        path = f"/v1/jobs/{job.json()['id']}/progress"
        with http.stream("GET", path, headers={"Accept": "text/event-stream"}) as answer:
            siege.note("streams", answer.status_code)
            for _ in answer.iter_raw():
                if siege.over:
                    return
        time.sleep(1)


def greedy(siege: Siege) -> None:
    with siege.client() as http:
        for _ in range(20):
            answer = http.post("/v1/jobs", json=chat("a", "b"))
            siege.note("greedy submissions", answer.status_code)
            if siege.over:
                return
            time.sleep(0.02)


def endless_lines(siege: Siege) -> None:
    """A body of lines that has no end in sight."""
    lines = jsonl(*(f"r{number}" for number in range(500)))

    def blocks() -> Iterator[bytes]:
        while not siege.over:
            yield lines
            time.sleep(0.1)

    with siege.client() as http:
        answer = http.post(
            "/v1/jobs",
            params={"endpoint": "/v1/chat/completions"},
            content=blocks(),
            headers={"Content-Type": "application/x-ndjson"},
        )
        siege.note("endless lines", answer.status_code)
