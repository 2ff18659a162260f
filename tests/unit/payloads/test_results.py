"""Results in input order, held against a naive model."""

from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.payloads import results
from service.payloads.blobs import Blobs
from service.payloads.results import LinesWriter, clusters, read_index
from service.rules.work import FinalLines
from tests.factories import final_lines

Part = list[tuple[int, bytes]]


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs((tmp_path / "blobs").as_uri())


def _stored(blobs: Blobs, parts: list[Part]) -> list[FinalLines]:
    return [final_lines(blobs, str(uuid4()), part) for part in parts]


def _naive(parts: list[Part]) -> list[tuple[int, bytes]]:
    """The last part that speaks of an ordinal is right."""
    known: dict[int, bytes] = {}
    for part in parts:
        known.update(part)
    return sorted(known.items())


def _part(drawn: dict[int, int], number: int) -> Part:
    return [(ordinal, b"%d-%d" % (number, ordinal) + b"x" * pad) for ordinal, pad in drawn.items()]


parts_drawn = st.lists(
    st.dictionaries(st.integers(0, 40), st.integers(0, 50), min_size=1, max_size=8).map(
        lambda drawn: dict(sorted(drawn.items()))
    ),
    min_size=1,
    max_size=6,
).map(lambda drawn: [_part(part, number) for number, part in enumerate(drawn)])


@pytest.fixture(params=["pieces-of-a-few-lines", "pieces-as-they-are"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pieces-of-a-few-lines":
        monkeypatch.setattr(results, "RUN_LINES", 3)
        monkeypatch.setattr(results, "RUN_BYTES", 60)
        monkeypatch.setattr(results, "SEGMENT_LINES", 4)


@pytest.mark.usefixtures("pieces")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts_drawn)
def test_results_are_in_input_order_and_the_later_batch_is_right(
    blobs: Blobs, parts: list[Part]
) -> None:
    wanted = _naive(parts)
    stored = _stored(blobs, parts)

    merged = [
        (ordinal, line)
        for run in results.merged(blobs, stored)
        for ordinal, line in zip(run.ordinals, run.data.splitlines(), strict=True)
    ]
    assert merged == wanted

    segments = results.assembled(blobs, f"jobs/{uuid4()}", stored)
    data = b"".join(line + b"\n" for _, line in wanted)
    assert b"".join(results.stream(blobs, segments)) == data
    assert b"".join(results.stream_partial(blobs, stored)) == data
    assert sum(segment.requests for segment in segments) == len(wanted)
    assert [segment.bytes for segment in segments] == [blobs.size(s.blob) for s in segments]
    indexed = [o for s in segments for o in read_index(blobs, s.index_blob).ordinals]
    assert indexed == [ordinal for ordinal, _ in wanted]
    lengths = [n for s in segments for n in read_index(blobs, s.index_blob).lengths]
    assert lengths == [len(line) + 1 for _, line in wanted]


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 10)).map(lambda t: (t[0], t[0] + t[1])),
        max_size=12,
    )
)
def test_clusters_do_not_overlap_and_lose_nothing(spans: list[tuple[int, int]]) -> None:
    parts = [
        FinalLines(blob=str(n), index_blob="", first_ordinal=a, last_ordinal=b, bytes=1, requests=1)
        for n, (a, b) in enumerate(spans)
    ]
    groups = list(clusters(parts))
    assert sorted(p.blob for group in groups for p in group) == sorted(p.blob for p in parts)
    for group in groups:
        assert [int(p.blob) for p in group] == sorted(int(p.blob) for p in group)
    bounds = [
        (min(p.first_ordinal for p in group), max(p.last_ordinal for p in group))
        for group in groups
    ]
    for (_, end), (start, _) in pairwise(bounds):
        assert end < start


def test_what_is_in_order_already_is_not_copied(blobs: Blobs) -> None:
    stored = _stored(blobs, [[(2, b"c")], [(0, b"a"), (1, b"b")]])
    segments = results.assembled(blobs, "jobs/x", stored)
    assert [segment.blob for segment in segments] == [stored[1].blob, stored[0].blob]


def test_a_job_without_lines_has_no_segments(blobs: Blobs) -> None:
    assert results.assembled(blobs, "jobs/x", []) == ()
    assert list(results.stream_partial(blobs, [])) == []


def test_a_writer_without_lines_has_no_final_lines(blobs: Blobs) -> None:
    writer = LinesWriter(blobs, "x")
    with writer.open():
        pass
    assert writer.final_lines is None


def test_lines_beyond_a_block_are_whole(blobs: Blobs) -> None:
    parts: list[Part] = [
        [(0, b"a" * 3_000_000), (2, b"c" * 10), (4, b"e" * 1_500_000)],
        [(1, b"b" * 2_500_000), (3, b"d")],
    ]
    stored = _stored(blobs, parts)
    (segment,) = results.assembled(blobs, "jobs/x", stored)
    data = b"".join(blobs.stream(segment.blob))
    assert data == b"".join(line + b"\n" for _, line in _naive(parts))


def test_a_line_keeps_its_own_line_feed(blobs: Blobs) -> None:
    (stored,) = _stored(blobs, [[(0, b"a\n"), (1, b"b"), (2, b"c\r\n")]])
    assert b"".join(blobs.stream(stored.blob)) == b"a\nb\nc\r\n"
    assert stored.bytes == 7
