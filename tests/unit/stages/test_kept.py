"""Answers that were paid for are read a page at a time, with few requests to blob storage."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.payloads.blobs import Blobs
from service.stages.kept import by_answers, keep_answers, kept_answers


class CountingBlobs(Blobs):
    reads = 0

    def stream(self, *place: Any) -> Iterator[bytes]:  # type: ignore[override]
        self.reads += 1
        return super().stream(*place)


@pytest.fixture
def blobs(tmp_path: Path) -> CountingBlobs:
    return CountingBlobs(tmp_path.as_uri())


def test_kept_answers_are_read_together_and_a_lost_one_stops_nothing(
    blobs: CountingBlobs,
) -> None:
    bodies = [(n, b'{"n": %d}' % n) for n in range(1000)]
    kept = keep_answers(blobs, "a", bodies, lambda: None)
    other = keep_answers(blobs, "b", [(1, b"other")], lambda: None)
    # Out of order, one twice, one whose blob is gone, and requests that kept nothing.
    names = [None, *reversed(kept.values()), kept[5], *other.values(), "gone@0+5", None]

    found = kept_answers(blobs, names)

    assert [found[kept[n]] for n, _ in bodies] == [body for _, body in bodies]
    assert found[other[1]] == b"other"
    assert len(found) == 1001
    assert blobs.reads == 3


def test_pages_are_bounded_by_number_and_by_bytes() -> None:
    sizes = [None] * 300 + [f"a@0+{6_000_000}"] * 3 + [f"a@0+{9_000_000}", None]

    pages = list(by_answers(sizes, lambda name: name))

    assert [len(page) for page in pages] == [256, 45, 1, 1, 1, 1]
    assert [name for page in pages for name in page] == sizes
