"""Inputs as they are: gzip is unpacked within bounds, and what is no JSONL is refused at once."""

import gzip
import tracemalloc
from collections import deque
from collections.abc import Iterator
from itertools import islice, repeat
from pathlib import Path
from uuid import uuid4

import pytest

from config.settings import Settings
from service.payloads import intake as taking_in
from service.payloads.blobs import Blobs
from service.payloads.intake import Intake, Taken
from service.payloads.unpacking import PIECE, Unpacker, unpacked
from service.rules.errors import BadInput
from tests.factories import CHAT, chat_line

LINES = b"".join(chat_line(f"r{number}") + b"\n" for number in range(200))


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs((tmp_path / "blobs").as_uri())


def _taken(blobs: Blobs, content: bytes, size: int = 1 << 18, **fields: int) -> Taken:
    limits = Settings.model_validate(fields)
    with Intake(blobs, f"jobs/{uuid4()}", CHAT, limits, hashed=True) as taking:
        for start in range(0, len(content), size):
            taking.feed(content[start : start + size])
        return taking.finish()


def _stored(blobs: Blobs, taken: Taken) -> bytes:
    return b"".join(blobs.get(shard.input_blob) for shard in taken.shards)


HALF = len(LINES) // 2
PACKED = {
    "as it is": LINES,
    "gzip": gzip.compress(LINES),
    "gzip in members": gzip.compress(LINES[:HALF]) + gzip.compress(LINES[HALF:]),
    "gzip filled up": gzip.compress(LINES) + bytes(500),
    "gzip with an empty member": gzip.compress(b"") + gzip.compress(LINES),
    "marks": b"\xef\xbb\xbf" + LINES,
    "gzip of marks": gzip.compress(b"\xef\xbb\xbf" + LINES),
    "files with marks, one behind the other": b"\xef\xbb\xbf".join([b"", LINES[:-1] + b"\n", b""]),
}


@pytest.mark.parametrize("size", [1, 99, 1 << 18])
@pytest.mark.parametrize("content", PACKED.values(), ids=PACKED)
def test_the_same_lines_are_stored_however_they_are_packed(
    blobs: Blobs, content: bytes, size: int
) -> None:
    taken = _taken(blobs, content, size)
    assert _stored(blobs, taken) == LINES
    assert taken.total == 200
    assert taken.sha256 == _taken(blobs, LINES).sha256


def test_lines_in_the_shape_of_openai_are_the_same_as_those_that_are_stored(blobs: Blobs) -> None:
    shaped = LINES.replace(b',"body":', b',"method":"POST","url":"/v1/chat/completions","body":')
    assert shaped != LINES
    # Some lines of each shape, blank lines and bad ones between them.
    mixed = b"".join(
        line + b"\n\n" * (number % 3 == 0)
        for number, line in enumerate(
            (one if number % 2 else other)
            for number, (one, other) in enumerate(
                zip(LINES.splitlines(True), shaped.splitlines(True), strict=True)
            )
        )
    )
    plain = _taken(blobs, LINES)
    for content in (shaped, mixed):
        taken = _taken(blobs, content)
        assert _stored(blobs, taken) == LINES
        assert taken.sha256 == plain.sha256


BAD = {
    "cut off": (gzip.compress(LINES)[:-9], "the gzip data is cut off"),
    "cut in the first bytes": (gzip.compress(LINES)[:5], "the gzip data is cut off"),
    "damaged": (gzip.compress(LINES)[:-8] + bytes(8), "the gzip data is damaged"),
    "rubbish behind": (gzip.compress(LINES) + b"rubbish", "the gzip data is damaged"),
    "gzip twice": (gzip.compress(gzip.compress(LINES)), "the input is gzip within gzip"),
    "a table in gzip": (gzip.compress(b"a;b\n1;2\n"), "separated by semicolons"),
    "nothing": (b"", "the input holds no requests"),
    "nothing in gzip": (gzip.compress(b""), "the input holds no requests"),
    "a single byte": (b"\x1f", "is not JSON"),
}


@pytest.mark.parametrize("size", [1, 1 << 18])
@pytest.mark.parametrize(("content", "words"), BAD.values(), ids=BAD)
def test_what_cannot_be_opened_is_refused_in_one_line(
    blobs: Blobs, content: bytes, words: str, size: int
) -> None:
    with pytest.raises(BadInput) as refusal:
        _taken(blobs, content, size)
    assert len(refusal.value.problems) == 1
    assert words in str(refusal.value)


BOMB = 40_000_000


def _bomb(content: bytes) -> Iterator[bytes]:
    """A gzip file of so many bytes, packed in pieces."""
    piece = gzip.compress(content * (PIECE // len(content)))
    yield from repeat(piece, BOMB // PIECE)


@pytest.mark.parametrize("content", [b"\n", b" ", chat_line("a") + b"\n"])
def test_a_gzip_bomb_stays_within_bounds(blobs: Blobs, content: bytes) -> None:
    limits = Settings.model_validate({"unpacked_bytes": BOMB // 10})
    tracemalloc.start()
    with Intake(blobs, f"jobs/{uuid4()}", CHAT, limits) as taking:
        blocks = map(taking.feed, _bomb(content))
        with pytest.raises(BadInput) as refusal:
            deque(blocks, maxlen=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "unpacks to more than 4,000,000 bytes" in str(refusal.value)
    assert refusal.value.too_large
    assert peak < 30_000_000


def test_one_block_of_a_bomb_is_unpacked_in_small_pieces() -> None:
    packed = gzip.compress(bytes(50_000_000))
    pieces = list(islice(Unpacker(10**9).feed(packed), 3))
    assert [len(piece) for piece in pieces] == [PIECE] * 3


def test_after_very_many_bad_lines_no_more_are_read(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking_in, "MOST_BAD_LINES", 1000)
    with pytest.raises(BadInput) as refusal:
        _taken(blobs, b"{}\n" * 100_000, 1 << 16)
    assert "21,845 lines are bad: reading stopped at line 21,845" in str(refusal.value.problems[0])


def test_a_file_that_is_not_packed_is_passed_on(blobs: Blobs) -> None:
    assert b"".join(unpacked([b"a", b"", b"bc"], 10)) == b"abc"
    assert b"".join(unpacked([b"a"], 10)) == b"a"
    assert b"".join(unpacked([], 10)) == b""
