"""Blobs in S3, on a real server behind a bad network."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from service.cli.up.ports import free_port
from service.payloads import blobs as module
from service.payloads.blobs import BLOCK, LEAST_SPAN, SPAN, STORAGE_ERRORS, Blobs
from service.rules.errors import Broken
from service.rules.work import Entry
from tests.eventually import eventually
from tests.faults.proxy import Proxy

BUCKET = "payloads"
DATA = random.Random(1).randbytes(3 * SPAN + 12_345)


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """The port of an S3 server with a bucket."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(url, trust_env=False).status_code < 500
        except httpx.HTTPError:
            return False

    try:
        eventually(answers, 60)
        assert httpx.put(f"{url}/{BUCKET}", trust_env=False).status_code == 200
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def proxy(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The way to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with Proxy("127.0.0.1", server) as made:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{made.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def blobs(proxy: Proxy) -> Blobs:
    return Blobs(f"s3://{BUCKET}/haulier")


def write(blobs: Blobs, name: str, data: bytes = DATA) -> str:
    with blobs.writer(name) as writer:
        for start in range(0, len(data), 100_000):
            writer.write(data[start : start + 100_000])
    return name


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, None),
        (0, len(DATA)),
        (SPAN - 1, 2),
        (SPAN, SPAN),
        (17, None),
        (len(DATA) - 1, None),
        (len(DATA), None),
        (5, 0),
    ],
)
def test_a_range_is_read_in_blocks(blobs: Blobs, offset: int, length: int | None) -> None:
    write(blobs, "jobs/a/x")
    pieces = list(blobs.stream("jobs/a/x", offset, length))
    end = len(DATA) if length is None else offset + length
    assert b"".join(pieces) == DATA[offset:end]
    assert all(len(piece) <= BLOCK for piece in pieces)


def test_small_blobs_and_manifests_come_back(blobs: Blobs) -> None:
    blobs.put("jobs/a/small", b"abc")
    blobs.put("jobs/a/empty", b"")
    assert (blobs.get("jobs/a/small"), blobs.get("jobs/a/empty")) == (b"abc", b"")
    entries = [Entry("a", 0, 0, 10), Entry("b", 1, 10, 20)]
    assert blobs.get_manifest(blobs.put_manifest("jobs/a/manifest", entries)) == entries
    assert blobs.is_there()
    blobs.delete(["jobs/a/small", "jobs/a/never-there"])
    for read in (blobs.get, blobs.size):
        with pytest.raises(FileNotFoundError):
            read("jobs/a/small")
    with pytest.raises(FileNotFoundError):
        list(blobs.stream("jobs/a/small", 1, 1))


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (9, 2), (10, 1), (50, 5)])
def test_a_blob_that_is_shorter_than_its_row_says_is_broken(
    blobs: Blobs, offset: int, length: int
) -> None:
    blobs.put("jobs/a/short", b"0123456789")
    with pytest.raises(Broken, match="jobs/a/short ends before byte"):
        list(blobs.stream("jobs/a/short", offset, length))


def test_what_breaks_off_goes_on_from_there(blobs: Blobs, proxy: Proxy) -> None:
    write(blobs, "jobs/a/cut")
    # No connection lives long enough for a whole span, but for a smaller one.
    proxy.cut_after = SPAN // 2
    assert b"".join(blobs.stream("jobs/a/cut")) == DATA


def test_a_network_that_is_away_for_a_moment_is_survived(blobs: Blobs, proxy: Proxy) -> None:
    write(blobs, "jobs/a/away")
    pieces = []
    for number, piece in enumerate(blobs.stream("jobs/a/away")):
        pieces.append(piece)
        if number == 2:
            proxy.cut()
        if number == SPAN // BLOCK:
            proxy.cut()
    assert b"".join(pieces) == DATA


def test_a_slow_way_is_read_in_smaller_spans(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """As slow as would make each request of a whole span run out of its time."""
    write(Blobs(f"s3://{BUCKET}/haulier"), "jobs/a/slow")
    monkeypatch.setattr(module, "READ_TIMEOUT", "2s")
    slow = Blobs(f"s3://{BUCKET}/haulier")
    proxy.rate = LEAST_SPAN
    length = 3 * LEAST_SPAN
    monkeypatch.setattr(module, "SPAN", length)
    assert b"".join(slow.stream("jobs/a/slow", 5, length)) == DATA[5 : 5 + length]


def test_a_reader_may_pause_for_longer_than_any_request_lasts(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Blobs(f"s3://{BUCKET}/haulier"), "jobs/a/pause")
    monkeypatch.setattr(module, "READ_TIMEOUT", "1s")
    paused = Blobs(f"s3://{BUCKET}/haulier").stream("jobs/a/pause")
    pieces = [next(paused)]
    time.sleep(3)  # the pause is what is tested
    proxy.cut()
    assert b"".join([*pieces, *paused]) == DATA


@pytest.mark.slow
def test_a_reader_may_pause_for_minutes(blobs: Blobs) -> None:
    write(blobs, "jobs/a/minutes")
    stream = blobs.stream("jobs/a/minutes")
    pieces = [next(stream)]
    for _ in range(2):
        time.sleep(100)  # the pause is what is tested
        pieces.append(next(stream))
    assert b"".join([*pieces, *stream]) == DATA


@pytest.mark.slow
def test_a_writer_may_pause_for_minutes(blobs: Blobs) -> None:
    with blobs.writer("jobs/a/written") as writer:
        writer.write(DATA[:SPAN])
        time.sleep(200)  # the pause is what is tested
        writer.write(DATA[SPAN:])
    assert blobs.get("jobs/a/written") == DATA


def test_a_blob_that_is_replaced_while_it_is_read_is_no_mixture(blobs: Blobs) -> None:
    """An `input` is a producer's: it may write it anew at any time."""
    write(blobs, "jobs/a/replaced")
    stream = blobs.stream("jobs/a/replaced")
    first = next(stream)
    write(blobs, "jobs/a/replaced", DATA[::-1])
    assert first == DATA[:BLOCK]
    with pytest.raises(STORAGE_ERRORS, match="precondition"):
        list(stream)
