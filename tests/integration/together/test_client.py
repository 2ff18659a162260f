"""The client against the running simulator, over real HTTP: every answer and every silence."""

import gzip
import hashlib
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import uuid4

import pytest

from service.cli.up.ports import free_port
from service.rules.errors import (
    AccountBlocked,
    Broken,
    HaulierError,
    Missing,
    QueueFull,
    RateLimited,
    Refused,
    Transient,
    Unreachable,
)
from service.together.client import BLOCK, RESUMES, Together
from service.together.transport import Pool, open_pool
from tests.eventually import eventually
from tests.factories import CHAT, chat_line
from tests.simulator import KEY, Simulator

WITHIN = timedelta(seconds=20)
LINES = b"".join(chat_line(f"r{i}", pad="x" * 200) + b"\n" for i in range(20))


@pytest.fixture
def pool() -> Iterator[Pool]:
    with open_pool(timedelta(seconds=5)) as opened:
        yield opened


@pytest.fixture
def together(pool: Pool, simulator: Simulator) -> Together:
    return Together(pool, simulator.url, KEY)


def _upload(together: Together, content: bytes = LINES, size: int | None = None) -> str:
    def blocks() -> Iterator[bytes]:
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    return together.upload(f"{uuid4()}.jsonl", len(content) if size is None else size, blocks).id


def _created(together: Together, file_id: str | None = None) -> str:
    batch = together.create(CHAT, file_id or _upload(together), within=WITHIN)
    assert batch is not None
    return batch.id


def _output(together: Together) -> str:
    """The output file of a batch that ended."""
    batch_id = _created(together)
    ended = eventually(lambda: found if (found := together.batch(batch_id)).ended else None)
    assert ended is not None
    assert ended.output_file_id is not None
    return ended.output_file_id


def _download(together: Together, file_id: str) -> bytes:
    to = io.BytesIO()
    assert together.download(file_id, to, lambda: None)
    return to.getvalue()


# --- the plain way ------------------------------------------------------------------------------


def test_a_batch_goes_all_the_way(together: Together, simulator: Simulator) -> None:
    file_id = _upload(together)
    assert together.file(file_id).bytes == len(LINES)
    batch_id = _created(together, file_id)
    assert [b.id for b in together.batches() if b.input_file_id == file_id] == [batch_id]
    ended = eventually(lambda: found if (found := together.batch(batch_id)).ended else None)
    assert ended is not None
    assert (ended.status, ended.error) == ("COMPLETED", None)
    assert ended.output_file_id is not None
    assert ended.error_file_id is None
    assert _download(together, ended.output_file_id).count(b"\n") == 20


def test_every_upload_is_a_file_of_its_own(together: Together) -> None:
    assert _upload(together) != _upload(together)


def test_an_account_without_batches_has_an_empty_list(together: Together) -> None:
    assert together.batches() == []


def test_a_deleted_file_is_missing_and_may_be_deleted_again(together: Together) -> None:
    file_id = _upload(together)
    together.delete_file(file_id)
    together.delete_file(file_id)
    with pytest.raises(Missing):
        together.file(file_id)


def test_cancelling_what_has_ended_is_fine(together: Together) -> None:
    batch_id = _created(together)
    eventually(lambda: together.batch(batch_id).ended)
    together.cancel(batch_id)


def test_a_cancelled_batch_ends(together: Together, simulator: Simulator) -> None:
    simulator.batch_rule(hang=True)
    batch_id = _created(together)
    together.cancel(batch_id)
    ended = eventually(lambda: found if (found := together.batch(batch_id)).ended else None)
    assert ended is not None
    assert ended.status == "CANCELLED"


@pytest.mark.parametrize("call", ["batch", "cancel"])
def test_an_unknown_batch_is_missing(together: Together, call: str) -> None:
    with pytest.raises(Missing) as refusal:
        getattr(together, call)(str(uuid4()))
    assert refusal.value.status == 404


def test_a_create_that_shows_no_batch_made_one(together: Together, simulator: Simulator) -> None:
    simulator.switch(job_null_on_create=True)
    file_id = _upload(together)
    assert together.create(CHAT, file_id, within=WITHIN) is None
    assert [batch.input_file_id for batch in together.batches()] == [file_id]


# --- statuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        ("CANCELED", "CANCELLED"),
        ("cancelled", "CANCELLED"),
        ("completed", "COMPLETED"),
        ("EXPIRED", "EXPIRED"),
        ("Failed", "FAILED"),
    ],
)
def test_a_terminal_status_is_known_in_every_spelling(
    together: Together, simulator: Simulator, shown: str, status: str
) -> None:
    simulator.batch_rule(hang=True, shows=shown, shows_seconds=60)
    batch_id = _created(together)
    ended = eventually(lambda: found if (found := together.batch(batch_id)).ended else None)
    assert ended is not None
    assert ended.status == status


@pytest.mark.parametrize(
    "shown", ["CANCELING", "CANCELLING", "QUEUED", "AGGREGATING", "chunking", "PONDERING", ""]
)
def test_an_unknown_status_is_not_terminal(
    together: Together, simulator: Simulator, shown: str
) -> None:
    simulator.batch_rule(hang=True, shows=shown, shows_seconds=60)
    batch_id = _created(together)
    eventually(lambda: together.batch(batch_id).status not in {"VALIDATING", "IN_PROGRESS"})
    assert not together.batch(batch_id).ended


# --- errors -------------------------------------------------------------------------------------

ERRORS: list[tuple[int, type[HaulierError]]] = [
    (400, Refused),
    (401, AccountBlocked),
    (402, AccountBlocked),
    (403, AccountBlocked),
    (404, Missing),
    (408, Transient),
    (413, Refused),
    (422, Refused),
    (429, RateLimited),
    (500, Transient),
    (502, Transient),
    (503, Transient),
    (504, Transient),
    (301, Transient),
]


@pytest.mark.parametrize("body", ["string", "object", "html", "empty"])
@pytest.mark.parametrize(("status", "kind"), ERRORS)
def test_a_status_becomes_an_error_named_for_what_to_do(
    together: Together, simulator: Simulator, status: int, kind: type[HaulierError], body: str
) -> None:
    simulator.fault("list", "status", status=status, body=body, message="the words")
    if issubclass(kind, Refused) and body in {"html", "empty"}:
        kind = Transient  # not Together's own word: it settles nothing
    with pytest.raises(kind) as raised:
        together.batches()
    assert type(raised.value) is kind
    assert str(status) in str(raised.value)
    assert ("the words" in str(raised.value)) == (body in {"string", "object"})
    assert "<" not in str(raised.value)


@pytest.mark.parametrize(
    ("header", "seconds", "wait"),
    [
        ("x-ratelimit-reset", 7.5, 7.5),
        ("retry-after", 3, 3),
        ("both", 2, 2),
        ("none", 2, None),
        ("x-ratelimit-reset", 0, 0),
    ],
)
def test_a_429_says_how_long_to_wait(
    together: Together, simulator: Simulator, header: str, seconds: float, wait: float | None
) -> None:
    simulator.switch(rate_limit_header=header)
    simulator.fault("retrieve", "status", status=429, reset_seconds=seconds)
    with pytest.raises(RateLimited) as limited:
        together.batch("x")
    assert limited.value.wait == (None if wait is None else timedelta(seconds=wait))


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "1e9", "Wed, 21 Oct 2026 07:28 GMT"])
def test_an_odd_reset_is_none(together: Together, simulator: Simulator, value: str) -> None:
    simulator.switch(rate_limit_header="none")
    simulator.fault("list", "status", status=429, headers={"x-ratelimit-reset": value})
    with pytest.raises(RateLimited) as limited:
        together.batches()
    assert limited.value.wait is None


CALLS: dict[str, Callable[[Together], object]] = {
    "create_file": _upload,
    "create": lambda together: together.create(CHAT, "file-x", within=WITHIN),
    "retrieve": lambda together: together.batch("x"),
    "list": lambda together: together.batches(),
    "cancel": lambda together: together.cancel("x"),
    "file": lambda together: together.file("x"),
    "delete": lambda together: together.delete_file("x"),
}


@pytest.mark.parametrize("operation", CALLS)
@pytest.mark.parametrize("after_commit", [True, False])
def test_a_lost_answer_may_have_been_sent(
    together: Together, simulator: Simulator, operation: str, *, after_commit: bool
) -> None:
    simulator.fault(operation, "lost", after_commit=after_commit)
    with pytest.raises(Transient) as lost:
        CALLS[operation](together)
    assert lost.value.sent


@pytest.mark.parametrize("operation", CALLS)
def test_a_refused_connection_sent_nothing(pool: Pool, operation: str) -> None:
    nowhere = Together(pool, f"http://127.0.0.1:{free_port()}", KEY)
    with pytest.raises(Transient) as refused:
        CALLS[operation](nowhere)
    assert not refused.value.sent


def test_a_silent_server_may_have_been_told(simulator: Simulator) -> None:
    simulator.hold("list")
    with open_pool(timedelta(seconds=0.2)) as pool, pytest.raises(Transient) as silent:
        Together(pool, simulator.url, KEY).batches()
    simulator.release()
    assert silent.value.sent


def test_a_refused_key_blocks_the_account(pool: Pool, simulator: Simulator) -> None:
    refused = {"key-one": 401, "key-two": 402, "key-three": 403}
    simulator.keys(refused)
    for key, status in refused.items():
        with pytest.raises(AccountBlocked) as blocked:
            Together(pool, simulator.url, key).create(CHAT, "file-x", within=WITHIN)
        assert not blocked.value.sent
        assert blocked.value.spending is (status == 402)
        assert key not in str(blocked.value)


@pytest.mark.parametrize(("status", "kind"), [(400, QueueFull), (503, Transient)])
def test_a_full_queue_is_backpressure_where_nothing_was_begun(
    together: Together, simulator: Simulator, status: int, kind: type[Unreachable]
) -> None:
    message = "Enqueued token limit reached"
    simulator.fault("create", "status", status=status, message=message)
    with pytest.raises(kind) as full:
        together.create(CHAT, "file-x", within=WITHIN)
    assert full.value.sent is (status == 503)


def test_a_create_that_connects_too_late_is_not_sent(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that takes long to resolve, or has many addresses that do not answer."""
    resolve = socket.getaddrinfo
    slow = threading.Event()

    def slowly(*arguments: Any, **more: Any) -> Any:
        slow.wait(0.3)
        return resolve(*arguments, **more)

    monkeypatch.setattr("socket.getaddrinfo", slowly)
    with open_pool(timedelta(seconds=5)) as unconnected:
        together = Together(unconnected, simulator.url, KEY)
        with pytest.raises(Transient, match="connecting took too long") as late:
            together.create(CHAT, "file-x", within=timedelta(seconds=0.5))
    assert not late.value.sent
    assert simulator.requests("create") == []


def test_the_client_names_itself(together: Together, simulator: Simulator) -> None:
    simulator.switch(refuse_default_agents=True)
    assert together.batches() == []


# --- uploads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirected_upload_is_sent_again_whole(
    together: Together, simulator: Simulator, status: int
) -> None:
    simulator.switch(upload_redirects=3, upload_redirect_status=status)
    file_id = _upload(together)
    assert together.file(file_id).bytes == len(LINES)
    assert _download(together, file_id) == LINES


def test_an_upload_redirected_for_ever_is_given_up(
    together: Together, simulator: Simulator
) -> None:
    simulator.switch(upload_redirects=100)
    with pytest.raises(Transient, match="object storage answered 307"):
        _upload(together)


@pytest.mark.parametrize("size", [len(LINES) + 1, len(LINES) - 1, 0])
def test_content_of_another_size_is_not_uploaded(together: Together, size: int) -> None:
    with pytest.raises(Broken, match=f"instead of {size}"):
        _upload(together, size=size)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_what_object_storage_refuses_says_nothing_of_the_account(
    together: Together, simulator: Simulator, status: int
) -> None:
    simulator.fault("put", "status", status=status)
    with pytest.raises(Transient, match=f"object storage answered {status}"):
        _upload(together)


@pytest.mark.parametrize("operation", ["create_file", "put", "preprocess"])
def test_an_upload_that_breaks_off_can_be_made_anew(
    together: Together, simulator: Simulator, operation: str
) -> None:
    simulator.fault(operation, "lost")
    with pytest.raises(Transient):
        _upload(together)
    assert together.file(_upload(together)).bytes == len(LINES)


def test_a_cut_upload_is_an_error(together: Together, simulator: Simulator) -> None:
    simulator.fault("put", "cut", fraction=0.5)
    with pytest.raises(Unreachable):
        _upload(together)


def test_free_credits_used_up_block_the_account(together: Together, simulator: Simulator) -> None:
    message = "would exceed your free trial credits"
    simulator.fault("create_file", "status", status=401, body="object", message=message)
    with pytest.raises(AccountBlocked, match=message):
        _upload(together)


# --- downloads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("content_length", [True, False])
@pytest.mark.parametrize("ranges", ["honoured", "ignored"])
def test_a_cut_download_goes_on_or_begins_anew(
    together: Together, simulator: Simulator, ranges: str, *, content_length: bool
) -> None:
    file_id = _output(together)
    whole = _download(together, file_id)
    simulator.switch(range=ranges, content_length=content_length)
    for fraction in (0.3, 0.7):
        simulator.fault("content", "cut", fraction=fraction)
    assert _download(together, file_id) == whole


def test_a_download_cut_at_its_very_end_is_whole(together: Together, simulator: Simulator) -> None:
    file_id = _output(together)
    whole = _download(together, file_id)
    simulator.switch(content_length=False)
    simulator.fault("content", "cut", bytes=len(whole))
    assert _download(together, file_id) == whole


def test_a_download_that_is_never_whole_is_given_up(
    together: Together, simulator: Simulator
) -> None:
    file_id = _output(together)
    before = len(simulator.requests("content"))
    simulator.switch(range="ignored")
    # Up and down: what counts is the furthest that any of them came.
    for bytes_ in (500, 400) * 20:
        simulator.fault("content", "cut", bytes=bytes_)
    with pytest.raises(Transient):
        _download(together, file_id)
    assert len(simulator.requests("content")) - before <= RESUMES + 2


def test_a_file_that_ends_early_without_a_sound_is_noticed(
    together: Together, simulator: Simulator
) -> None:
    file_id = _output(together)
    simulator.switch(content_length=False)
    simulator.fault("content", "cut", fraction=0.5, clean=True, times=None)
    assert not together.download(file_id, io.BytesIO(), lambda: None)


@pytest.mark.parametrize(
    ("status", "kind"), [(429, RateLimited), (401, AccountBlocked), (404, Missing), (400, Refused)]
)
def test_a_refused_download_is_not_insisted_on(
    together: Together, simulator: Simulator, status: int, kind: type[HaulierError]
) -> None:
    file_id = _output(together)
    simulator.fault("content", "status", status=status, times=None)
    before = len(simulator.requests("content"))
    with pytest.raises(kind):
        _download(together, file_id)
    assert len(simulator.requests("content")) - before == 1


def test_a_slow_download_keeps_its_lease(together: Together, simulator: Simulator) -> None:
    file_id = _output(together)
    simulator.fault("content", "slow", bytes_per_second=20_000)
    calls: list[int] = []
    together.download(file_id, io.BytesIO(), lambda: calls.append(1))
    assert calls


@pytest.mark.parametrize("redirect", ["path", "host"])
def test_redirected_content_is_followed(
    together: Together, simulator: Simulator, redirect: str
) -> None:
    file_id = _output(together)
    whole = _download(together, file_id)
    simulator.switch(content_redirect=redirect)
    assert _download(together, file_id) == whole


# --- what the simulator cannot be made to do: a server of our own -------------------------------


class Seen:
    """What a server was asked, and what it is to answer."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""
        self.answer: Callable[[str, str, dict[str, str]], tuple[int, dict[str, str], bytes]]


@contextmanager
def _server() -> Iterator[Seen]:
    seen = Seen()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen.requests.append((self.command, self.path, headers, body))
            status, sent, content = seen.answer(self.command, self.path, headers)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **sent}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815  as the base class names them

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    seen.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_key_is_sent_to_together_and_to_nobody_else(pool: Pool) -> None:
    with _server() as api, _server() as store, _server() as further:

        def answer(method: str, path: str, _: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
            if path == "/v1/files" and method == "POST":
                headers = {"Location": f"{store.url}/put", "X-Together-File-Id": "file-1"}
                return 302, headers, b""
            if path == "/v1/files/file-1/content":
                return 302, {"Location": f"{store.url}/get"}, b""
            return 200, {}, b'{"id": "file-1", "bytes": 5}'

        api.answer = answer
        store.answer = lambda method, *_: (
            (307, {"Location": f"{further.url}/put"}, b"")
            if method == "PUT"
            else (200, {}, b"12345")
        )
        further.answer = lambda *_: (200, {}, b"")
        together = Together(pool, api.url, "the-key")
        assert together.upload("a.jsonl", 5, lambda: iter([b"12", b"345"])).id == "file-1"
        assert _download(together, "file-1") == b"12345"

    assert all(headers["authorization"] == "Bearer the-key" for _, _, headers, _ in api.requests)
    others = store.requests + further.requests
    assert [method for method, *_ in others] == ["PUT", "GET", "PUT"]
    for _, _, headers, _ in others:
        assert "the-key" not in str(headers)
    assert further.requests[0][3] == store.requests[0][3] == b"12345"
    announced = api.requests[0][3]
    assert b"checksum" not in announced
    assert b"batch-api" in announced


def _answers(pool: Pool, status: int, content: bytes, **headers: str) -> Iterator[Together]:
    with _server() as api:
        api.answer = lambda *_: (status, headers, content)
        yield Together(pool, api.url, KEY)


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[]", b"<html>", b'{"id": 7}', b"\xff", b"[" * 10_000]
)
def test_a_success_that_cannot_be_read_is_transient(pool: Pool, content: bytes) -> None:
    for together in _answers(pool, 200, content):
        for operation in ("retrieve", "file"):
            with pytest.raises(Transient, match="cannot read"):
                CALLS[operation](together)


def test_a_create_that_answers_nonsense_may_have_made_a_batch(pool: Pool) -> None:
    for together in _answers(pool, 201, b"<html>thanks</html>"):
        with pytest.raises(Transient) as odd:
            together.create(CHAT, "file-x", within=WITHIN)
        assert odd.value.sent


def _serving(pool: Pool, content: bytes, size: object, **headers: str) -> Iterator[Together]:
    """A Together that holds one file, whose object shows this size."""

    def answer(_: str, path: str, __: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if path.endswith("/content"):
            return 200, headers, content
        if size == "unavailable":
            return 500, {}, b"{}"
        return 200, {}, json.dumps({"id": "file-1", "bytes": size}).encode()

    with _server() as api:
        api.answer = answer
        yield Together(pool, api.url, KEY)


ONE = b'{"custom_id":"a"}' * 50


@pytest.mark.parametrize("size", [len(ONE), float(len(ONE)), str(len(ONE)), 0, None, "unavailable"])
def test_a_size_that_is_odd_or_missing_keeps_no_content_back(pool: Pool, size: object) -> None:
    for together in _serving(pool, ONE, size):
        assert _download(together, "file-1") == ONE


@pytest.mark.parametrize("size", ["raw", "packed", None])
@pytest.mark.parametrize("announced", [True, False])
def test_compressed_content_is_decompressed(
    pool: Pool, size: str | None, *, announced: bool
) -> None:
    packed = gzip.compress(ONE)
    sizes = {"raw": len(ONE), "packed": len(packed), None: None}
    if not announced and size == "raw":
        pytest.skip("a gzip file has the size of a gzip file")
    headers = {"Content-Encoding": "gzip"} if announced else {}
    for together in _serving(pool, packed, sizes[size], **headers):
        assert _download(together, "file-1") == ONE


@pytest.mark.parametrize("announced", [True, False])
def test_content_that_unpacks_to_too_much_is_refused_by_name(
    pool: Pool, *, announced: bool
) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    headers = {"Content-Encoding": "gzip"} if announced else {}
    for together in _serving(pool, bomb, len(bomb), **headers):
        to = io.BytesIO()
        with pytest.raises(Broken, match="file-1 unpacks to more than 1,000,000 bytes"):
            together.download("file-1", to, lambda: None, 1_000_000)
        assert to.tell() <= 1_000_000


def test_content_that_only_begins_like_gzip_is_left_alone(pool: Pool) -> None:
    content = gzip.compress(ONE)[:-9]
    for together in _serving(pool, content, len(content)):
        assert _download(together, "file-1") == content


def test_a_list_with_alien_entries_shows_the_others(pool: Pool) -> None:
    batch = {"id": "b-1", "status": None, "input_file_id": "file-1", "created_at": 1795872475}
    content = json.dumps([7, None, {"status": "COMPLETED"}, batch]).encode()
    for together in _answers(pool, 200, content):
        assert [found.id for found in together.batches()] == ["b-1"]


def test_ids_are_no_paths(pool: Pool) -> None:
    with _server() as api:
        api.answer = lambda *_: (404, {}, b'{"error": "unknown"}')
        with pytest.raises(Missing):
            Together(pool, api.url, KEY).batch("../files?x=1")
    assert api.requests[0][1] == "/v1/batches/..%2Ffiles%3Fx%3D1"


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "instead of an upload URL"),
        ({"Location": "http://x/"}, "302"),
        ({"X-Together-File-Id": "file-1"}, "302"),
    ],
)
def test_an_upload_without_a_url_is_transient(
    pool: Pool, headers: dict[str, str], words: str
) -> None:
    status = 302 if headers else 200
    for together in _answers(pool, status, b"", **headers):
        with pytest.raises(Transient, match=words):
            _upload(together)


def test_a_null_list_is_empty(pool: Pool) -> None:
    for together in _answers(pool, 200, b" null\n"):
        assert together.batches() == []


def test_words_that_no_text_column_takes_are_mended(pool: Pool) -> None:
    job = b'{"id": "b", "status": "fail\\u0000ed", "error": "nul \\u0000", "progress": 1}'
    for together in _answers(pool, 200, job):
        batch = together.batch("b")
        assert (batch.status, batch.error) == ("FAIL\ufffdED", "nul \ufffd")
    for together in _answers(pool, 400, b'{"error": "nul \\u0000"}'):
        with pytest.raises(Refused, match="nul \ufffd"):
            together.batch("b")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error": ["x"]}', Refused),
        # Without words it is nobody's refusal.
        (b'{"error": null}', Transient),
        (b'{"error": {}}', Transient),
        (b"[]", Transient),
        (b'"text"', Transient),
        (b"{}", Transient),
    ],
)
def test_an_error_of_any_shape_is_an_error(
    pool: Pool, body: bytes, kind: type[HaulierError]
) -> None:
    for together in _answers(pool, 400, body):
        with pytest.raises(kind):
            together.batch("x")


def test_a_batch_with_more_and_fewer_fields_is_read(pool: Pool) -> None:
    job = b'{"id": "b", "status": "IN_PROGRESS", "new": {"x": [1]}, "output_file_id": ""}'
    for together in _answers(pool, 200, job):
        batch = together.batch("b")
    assert (batch.output_file_id, batch.progress, batch.input_file_id) == (None, None, None)


def test_a_large_upload_is_streamed(pool: Pool) -> None:
    digest = hashlib.sha256()

    def blocks() -> Iterator[bytes]:
        for number in range(64):
            block = bytes([number]) * BLOCK
            digest.update(block)
            yield block

    with _server() as api:

        def answer(_: str, path: str, __: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
            if path == "/v1/files":
                headers = {"Location": f"{api.url}/put", "X-Together-File-Id": "file-1"}
                return 302, headers, b""
            return 200, {}, b'{"id": "file-1"}'

        api.answer = answer
        assert Together(pool, api.url, KEY).upload("a", 64 * BLOCK, blocks).bytes is None
    (put,) = [request for request in api.requests if request[0] == "PUT"]
    assert hashlib.sha256(put[3]).digest() == digest.digest()
    assert put[2]["content-length"] == str(64 * BLOCK)
    assert "transfer-encoding" not in put[2]
