"""Uploads in one step: a form with the file in it, at both of the doors that take one."""

import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import httpx
import pytest

from service.api import watching
from service.rules.credentials import Scope
from service.store import producers
from tests.api import Api
from tests.eventually import eventually
from tests.integration.api.test_dropin_storage import ENDS
from tests.together_by_hand import chat_line, jsonl

LINES = jsonl([chat_line("a")])
DOORS = {"/together/v1/files/upload": "batch-api", "/openai/v1/files": "batch"}


class Door:
    """One producer, and a way to send forms to a path."""

    def __init__(self, api: Api, path: str, **limits: int) -> None:
        self.api = api
        self.path = path
        self.purpose = DOORS[path]
        self.producer = f"billing-{uuid4()}"
        self.token = producers.add_producer(api.db, self.producer, **limits).text
        self.url = api.url + path
        self.headers = {"Authorization": f"Bearer {self.token}"}

    def send(self, *parts: tuple[str, bytes], **more: Any) -> httpx.Response:
        """The parts as they are, in this order; `file` is the one with a file name."""
        body, boundary = b"", "q1w2e3"
        for name, value in parts:
            of_file = '; filename="in.jsonl"' if name == "file" else ""
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{of_file}\r\n\r\n'
            body += head.encode() + value + b"\r\n"
        return self.post(body + f"--{boundary}--\r\n".encode(), boundary=boundary, **more)

    def post(self, body: Any, boundary: str = "b", **headers: str) -> httpx.Response:
        media_type = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return httpx.post(
            self.url,
            content=body,
            headers={**self.headers, **media_type, **headers},
            trust_env=False,
            timeout=60,
        )

    def form(self, content: bytes = LINES, **fields: str) -> httpx.Response:
        """As an HTTP library sends it."""
        data = {"purpose": self.purpose, **fields}
        return httpx.post(
            self.url,
            data=data,
            files={"file": ("in.jsonl", content)},
            headers=self.headers,
            trust_env=False,
            timeout=60,
        )

    def content(self, file_id: str) -> bytes:
        files = self.url.removesuffix("/upload")
        answer = httpx.get(f"{files}/{file_id}/content", headers=self.headers, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.content

    def kept(self) -> list[Path]:
        """Every blob of an upload, half-written ones among them."""
        folder = Path(unquote(urlsplit(self.api.blobs.url).path)) / "files"
        return [path for path in folder.rglob("*") if path.is_file()]

    def rows(self) -> tuple[int, int]:
        """How many files and uploads there are."""
        rows = self.api.harness.rows
        (files,) = rows("SELECT count(*) FROM haulier.files")
        (uploads,) = rows("SELECT count(*) FROM haulier.uploads")
        return int(files), int(uploads)


@pytest.fixture
def door(api: Api, monkeypatch: pytest.MonkeyPatch) -> Door:
    """The one; what the other shares with it is tried once."""
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.05)
    return Door(api, "/openai/v1/files")


@pytest.fixture(params=DOORS)
def either(request: pytest.FixtureRequest, api: Api) -> Door:
    return Door(api, request.param)


def test_a_file_arrives_whatever_the_order_and_the_blocks(either: Door) -> None:
    purpose = ("purpose", either.purpose.encode())
    crlf = LINES.replace(b"\n", b"\r\n") * 20_000
    odd = b"\r\n--q1w2e\r\n--q1w2e3x\r\n-\r\n\r\n"
    for content in (LINES, b"", b"no end", odd, crlf):
        for parts in ([purpose, ("file", content)], [("file", content), purpose]):
            answer = either.send(*parts, *[("other", b"")])
            assert answer.status_code == 200, answer.text
            shown = answer.json()
            assert (shown["filename"], shown["bytes"]) == ("in.jsonl", len(content))
            assert either.content(shown["id"]) == content
    assert either.rows() == (10, 0)


def test_a_byte_at_a_time_is_a_form_too(door: Door) -> None:
    body = (
        '--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\n'
        f"{door.purpose}\r\n"
        '--b\r\nContent-Type: text/plain\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        "{}\r\n--b--\r\nan epilogue"
    ).encode()

    answer = door.post(iter([body[at : at + 1] for at in range(len(body))]))

    assert answer.status_code == 200, answer.text
    assert door.content(answer.json()["id"]) == b"{}"
    assert answer.json()["filename"] == "upload.jsonl"


def test_the_name_may_come_with_the_file_or_after_it(api: Api) -> None:
    door = Door(api, "/together/v1/files/upload")
    sent = [("file", LINES), ("purpose", b"batch-api"), ("file_name", b"mine.jsonl")]
    answer = door.send(*sent, ("file_type", b"jsonl"))
    assert (answer.status_code, answer.json()["filename"]) == (200, "mine.jsonl")
    assert door.form(file_name="ours.jsonl").json()["filename"] == "ours.jsonl"


def test_a_checksum_is_compared(api: Api) -> None:
    door = Door(api, "/together/v1/files/upload")
    assert door.form(checksum=sha256(LINES).hexdigest()).status_code == 200
    kept = door.kept()
    wrong = door.form(checksum="0" * 64)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "checksum")
    assert door.kept() == kept
    assert door.rows() == (1, 0)


def test_what_cannot_be_taken_is_refused_and_leaves_nothing(either: Door) -> None:
    purpose, file = ("purpose", either.purpose.encode()), ("file", LINES)
    refused = {
        "purpose": [either.send(file), either.send(("purpose", b"fine-tune"), file)],
        "file": [either.send(purpose), either.send(purpose, file, file), either.send()],
        "4,096": [either.send(("x", b"x" * 5000), purpose, file)],
        "20 fields": [either.send(*[(f"x{n}", b"x") for n in range(21)], purpose, file)],
        "UTF-8": [either.send(("x", b"\xff"), purpose, file)],
        "last boundary": [
            either.post(b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n{}'),
            either.post(b""),
        ],
        "cannot be read": [either.post(b"nonsense"), either.post(b"--b\r\n\x00: x\r\n\r\n")],
        "without a name": [either.post(b"--b\r\nX: y\r\n\r\nz\r\n--b--\r\n")],
        "not text": [
            either.post(
                b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n{}'
                % (b"x" * 300)
            )
        ],
        "multipart/form-data": [
            either.post(LINES, **{"Content-Type": wrong})
            for wrong in ("application/jsonl", "multipart/form-data", "multipart/mixed; boundary=b")
        ],
    }
    for words, answers in refused.items():
        for answer in answers:
            assert answer.status_code == 400, (words, answer.text)
            assert words in answer.json()["error"]["message"]
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert either.kept() == []
    assert either.rows() == (0, 0)


def test_a_producer_stores_up_to_its_limits(door: Door) -> None:
    small = Door(door.api, door.path, stored_bytes=1000)
    assert small.form(b"x" * 900).status_code == 200
    over = small.form(b"y" * 101)
    assert (over.status_code, over.headers["retry-after"]) == (429, "60")
    assert "may store 1,000 bytes of files; 900 are used" in over.json()["error"]["message"]
    assert small.form(b"y" * 1001).status_code == 413
    assert small.form(b"y" * 100).status_code == 200
    assert Door(door.api, door.path, body_bytes=10).form(b"x" * 11).status_code == 413
    assert len(door.kept()) == 2
    assert door.rows() == (2, 0)


def test_forms_side_by_side_do_not_exceed_it_together(door: Door) -> None:
    small = Door(door.api, door.path, stored_bytes=3_500_000)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(small.form, [b"x" * 1_100_000] * 6))
    found = [answer.status_code for answer in answers]
    assert set(found) <= {200, 429}
    assert 1 <= found.count(200) <= 3
    assert sum(path.stat().st_size for path in door.kept()) == found.count(200) * 1_100_000
    assert door.rows() == (found.count(200), 0)


class Arriving:
    """The beginning of a form, on a connection that stays open."""

    def __init__(self, door: Door) -> None:
        at = urlsplit(door.url)
        self._connection = socket.create_connection((at.hostname, at.port), timeout=30)
        head = (
            f"POST {at.path} HTTP/1.1\r\nHost: {at.netloc}\r\nTransfer-Encoding: chunked\r\n"
            f"Authorization: Bearer {door.token}\r\n"
            "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        part = (
            f'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{door.purpose}\r\n'
            '--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        ) + "x" * 1_100_000
        self._connection.sendall(f"{head}{len(part):x}\r\n{part}\r\n".encode())
        eventually(door.kept)

    def answer(self) -> int:
        return int(self._connection.recv(100).split()[1])

    def break_off(self) -> None:
        self._connection.close()


@pytest.fixture
def arriving(door: Door) -> Iterator[Arriving]:
    begun = Arriving(door)
    yield begun
    begun.break_off()


def test_an_upload_that_breaks_off_leaves_nothing(door: Door, arriving: Arriving) -> None:
    assert door.rows() == (1, 1)
    arriving.break_off()
    eventually(lambda: not door.kept() and door.rows() == (0, 0))


@pytest.mark.parametrize("end", ENDS)
def test_an_upload_ends_with_its_token(door: Door, arriving: Arriving, end: Any) -> None:
    end(door)
    assert arriving.answer() in {401, 404}
    eventually(lambda: not door.kept() and door.rows() == (0, 0))


def test_nothing_is_read_from_who_may_not_upload(either: Door) -> None:
    reading = producers.add_credential(either.api.db, either.producer, scopes=[Scope.READ]).text
    for token, status in (("wrong", 401), (reading, 403)):
        either.headers = {"Authorization": f"Bearer {token}"}
        answer = either.form()
        assert answer.status_code == status
        assert re.search(r"token", answer.json()["error"]["message"])
    assert either.rows() == (0, 0)
