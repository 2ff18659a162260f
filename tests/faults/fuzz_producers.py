"""The producers of a fuzz run: careless ones that send anything, and one that does its work."""

import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx
import redis

from tests.api import chat
from tests.faults.elsewhere import on_another_machine
from tests.faults.fuzz_inputs import Mutator

ODD_HEADERS = (
    ("Idempotency-Key", "key"),
    ("Content-Type", "application/json"),
    ("Content-Type", "application/x-ndjson; charset=utf-16"),
    ("Content-Encoding", "gzip"),
    ("Accept-Encoding", "br;q=nan, gzip;q=2"),
    ("Accept", "text/event-stream"),
    ("Range", "bytes=9-3,-1"),
    ("If-Range", '"1"'),
    ("If-None-Match", "*"),
    ("Last-Event-ID", "-1"),
    ("x-stainless-read-timeout", "-1e300"),
    ("x-stainless-retry-count", "many"),
    ("X-Forwarded-For", "unknown, 1.2.3.4"),
    ("Authorization", "Bearer haulier_00_00"),
    ("Cookie", "a=b; a"),
    ("Expect", "100-continue"),
)
METHODS = ("GET", "GET", "POST", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
QUEUE = "haulier.submit"
KEPT_UNREAD = 2_000
"""So many messages wait at most, so that the honest producer's never stand behind more."""


@dataclass
class Seen:
    """What came back, and what should not have."""

    answers: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def answer(self, way: str, status: int, what: str, text: str) -> None:
        self.answers[f"{way} {status // 100}xx"] += 1
        if status >= 500:
            self.broken.append(f"{way} {status}: {what[:500]} -> {text[:500]}")


@dataclass(frozen=True)
class Target:
    """Where a producer sends to, and as whom. `paths` are those of the OpenAPI document."""

    url: str
    token: str
    redis_url: str
    paths: list[str]


def careless(targets: Sequence[Target], seed: int, seconds: float, told: "Queue[Seen]") -> None:
    """Be several careless producers for so long. Runs in a process of its own."""
    on_another_machine()
    end = time.monotonic() + seconds
    ones = [Careless(target, f"{seed} {number}", end) for number, target in enumerate(targets)]
    for one in ones:
        one.start()
    seen = Seen()
    for one in ones:
        one.join(seconds + 60)
        seen.answers += one.seen.answers
        seen.broken += one.seen.broken
        if one.is_alive():
            seen.broken.append(f"{one.name} got no answer for a minute")
    told.put(seen)


class Careless(threading.Thread):
    """A producer that sends what it likes."""

    def __init__(self, target: Target, seed: str, end: float) -> None:
        super().__init__(name=f"careless {seed}", daemon=True)
        self.seen = Seen()
        self._end = end
        self._luck = random.Random(seed)
        self._mutator = Mutator(self._luck)
        self._target = target
        self._redis = redis.Redis.from_url(target.redis_url)

    def run(self) -> None:
        ways = (
            self._call,
            self._call,
            self._submit,
            self._raw,
            self._message,
            self._upload,
            self._form,
        )
        headers = {"Authorization": f"Bearer {self._target.token}"}
        with (
            httpx.Client(
                base_url=self._target.url, headers=headers, timeout=30, trust_env=False
            ) as http,
            self._redis,
        ):
            while time.monotonic() < self._end:
                self._luck.choice(ways)(http)

    def _spec(self) -> dict[str, Any]:
        ids = [f"r{number}" for number in range(self._luck.randint(1, 4))]
        fields: dict[str, Any] = {
            "metadata": {"team": "x"},
            "priority": self._luck.randint(0, 9),
            "max_attempts": 1,
            "idempotency_key": str(uuid4()),
        }
        if self._mutator.maybe(0.2):
            fields["notify"] = [{"webhook": "https://127.0.0.1/x"}, {"task": "t", "queue": "q"}]
        spec = chat(*ids, **fields)
        if self._mutator.maybe(0.1):
            del spec["requests"]
            spec["input"] = self._mutator.text("file:///tmp/x.jsonl")
        return spec

    def _ask(self, http: httpx.Client, way: str, method: str, path: str, **more: Any) -> None:
        # httpx refuses to send some of this itself, and a connection may be cut in an answer.
        with suppress(httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError):
            with http.stream(method, path, **more) as answer:
                text = b""
                for block in answer.iter_raw():
                    text += block
                    if len(text) > 2_000 or answer.headers.get("content-type", "").startswith(
                        "text/event-stream"
                    ):
                        break
            what = f"{method} {path} {more}"
            self.seen.answer(way, answer.status_code, what, text.decode(errors="replace"))

    def _headers(self) -> dict[str, str]:
        odd = self._luck.sample(ODD_HEADERS, self._luck.randint(0, 2))
        return {
            name: self._mutator.text(value).replace("\x00", "")[:2_000].encode().decode("latin-1")
            for name, value in odd
        }

    def _call(self, http: httpx.Client) -> None:
        """Any operation, with anything for its parameters."""
        path = self._mutator.one_of(self._target.paths)
        while "{" in path:
            before, _, rest = path.partition("{")
            after = rest.partition("}")[2]
            path = before + quote(self._mutator.text(str(uuid4())), safe="") + after
        query = {
            name: self._mutator.text("1")
            for name in self._luck.sample(["limit", "cursor", "state", "since", "partial"], 2)
        }
        body = self._mutator.json({"name": "x", "scopes": ["read"], "limit": 3})
        self._ask(
            http,
            "call",
            self._luck.choice(METHODS),
            path,
            params=query if self._mutator.maybe(0.5) else None,
            content=body if self._mutator.maybe(0.5) else None,
            headers=self._headers(),
        )

    def _submit(self, http: httpx.Client) -> None:
        spec = self._spec()
        if self._mutator.maybe(0.3):  # so that Together's odd answers have something to be about
            content, kind = json.dumps(spec).encode(), "application/json"
        elif self._mutator.maybe(0.5):
            content, kind = self._mutator.json(spec), "application/json"
        else:
            lines = [self._mutator.json(line) for line in spec.get("requests", [{}])]
            content, kind = b"\n".join(lines), "application/x-ndjson"
        headers = {"Content-Type": kind, **self._headers()}
        query = {"endpoint": self._mutator.text("/v1/chat/completions")} if "x-nd" in kind else None
        self._ask(
            http, "submit", "POST", "/v1/jobs", content=content, headers=headers, params=query
        )

    def _raw(self, _: httpx.Client) -> None:
        """Bytes that are almost HTTP."""
        body = json.dumps(self._spec()).encode()
        good = (
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer " + self._target.token.encode() + b"\r\n"
            b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )
        data = self._mutator.bytes(self._mutator.bytes(good))
        to = urlsplit(self._target.url)
        with suppress(OSError):
            with socket.create_connection((to.hostname, to.port), timeout=5) as connection:
                connection.sendall(data)
                if self._mutator.maybe(0.5):
                    connection.shutdown(socket.SHUT_WR)
                connection.settimeout(0.5)
                answer = connection.recv(65_536)
            if answer.startswith(b"HTTP/1.1 "):
                status = int(answer[9:12])
                self.seen.answer("raw", status, repr(data), answer.decode(errors="replace"))

    def _message(self, _: httpx.Client) -> None:
        """A message as Celery writes it, or something like that."""
        if self._redis.llen(QUEUE) > KEPT_UNREAD:
            return
        task_id = str(uuid4())
        body = [[], {"spec": self._spec()}, {"callbacks": None, "errbacks": None, "chain": None}]
        message = {
            "body": self._mutator.json(body).decode("latin-1"),
            "content-encoding": self._mutator.one_of(["utf-8", "utf-8", "latin-1", "binary", "?"]),
            "content-type": self._mutator.one_of(["application/json"] * 3 + ["text/plain"]),
            "headers": {"lang": "py", "task": "haulier.submit", "id": task_id, "eta": None},
            "properties": {
                "correlation_id": task_id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": QUEUE},
                "priority": 0,
                "body_encoding": self._mutator.one_of([None, None, "base64"]),
                "delivery_tag": str(uuid4()),
            },
        }
        self._redis.lpush(QUEUE, self._mutator.json(message))
        self.seen.answers["messages"] += 1

    def _upload(self, http: httpx.Client) -> None:
        """A file over the drop-in, with bytes that are not as announced."""
        fields = {
            "purpose": self._mutator.one_of(["batch-api"] * 5 + [self._mutator.text("fine-tune")]),
            "file_name": self._mutator.text("a.jsonl"),
            "file_type": self._mutator.one_of(["jsonl"] * 5 + ["csv"]),
            "checksum": self._mutator.one_of(["0" * 64, "", "x"]),
        }
        with suppress(httpx.HTTPError, ValueError):
            answer = http.post("/together/v1/files", data=fields)
            self.seen.answer("announce", answer.status_code, str(fields), answer.text)
            if answer.status_code == 302:
                lines = [self._mutator.json(line) for line in chat("a", "b")["requests"]]
                self._ask(
                    http,
                    "upload",
                    "PUT",
                    answer.headers["location"],
                    content=b"\n".join(lines),
                    headers=self._headers(),
                )

    def _form(self, http: httpx.Client) -> None:
        """A form with a file in it, at both doors that take one, or something like a form."""
        path, purpose = self._mutator.one_of(
            [("/together/v1/files/upload", b"batch-api"), ("/openai/v1/files", b"batch")]
        )
        lines = b"\n".join(self._mutator.json(line) for line in chat("a", "b")["requests"])
        parts = [(b"purpose", purpose), (b"file", lines), (b"expires_after[seconds]", b"3600")]
        self._luck.shuffle(parts)
        head = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        content = b"".join(head % part for part in parts) + b"--b--\r\n"
        media_type = {"Content-Type": "multipart/form-data; boundary=b"}
        self._ask(
            http,
            "form",
            "POST",
            path,
            content=self._mutator.bytes(content),
            headers={**self._headers(), **media_type},
        )
