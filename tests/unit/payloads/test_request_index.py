"""The index of custom_ids, held against the manifest it is made of."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.payloads import request_index
from service.payloads.blobs import Blobs
from service.payloads.blobs import packed as packed_manifest
from service.payloads.request_index import WIDTH, find, packed
from service.rules.work import Entry
from tests.factories import entry


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs((tmp_path / "blobs").as_uri())


def _stored(blobs: Blobs, entries: list[Entry]) -> str:
    blobs.put("jobs/j/shard-0.manifest", packed_manifest(entries))
    return "jobs/j/shard-0.manifest"


def test_every_request_of_a_large_manifest_is_found_and_no_other(blobs: Blobs) -> None:
    entries = [entry(n) for n in range(3000)]
    name = _stored(blobs, entries)

    for one in entries[::500]:
        assert find(blobs, name, 3000, one.custom_id) == one
    for custom_id in ("", "r", "r3000", "R1", "ü", "\ud800", "r1\x00"):
        assert find(blobs, name, 3000, custom_id) is None
    assert blobs.size(f"{name}.ids") == WIDTH * 3000


def test_a_manifest_is_read_for_what_the_index_may_hold_and_not_otherwise(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = _stored(blobs, [entry(n) for n in range(3000)])
    assert find(blobs, name, 3000, "r7") is not None
    monkeypatch.setattr(blobs, "get_manifest", None)

    assert find(blobs, name, 3000, "nobody") is None


def test_an_index_that_was_swept_is_made_again(blobs: Blobs) -> None:
    name = _stored(blobs, [entry(n) for n in range(3000)])
    for _ in range(2):
        assert find(blobs, name, 3000, "r7") == entry(7)
        blobs.delete([f"{name}.ids"])


def test_a_small_manifest_needs_no_index(blobs: Blobs) -> None:
    name = _stored(blobs, [entry(n) for n in range(3)])

    assert find(blobs, name, 3, "r2") == entry(2)
    with pytest.raises(FileNotFoundError):
        blobs.size(f"{name}.ids")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(heads=st.lists(st.integers(0, 255), min_size=1, max_size=300), sought=st.integers(0, 255))
def test_hashes_that_lie_unevenly_are_found_all_the_same(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch, heads: list[int], sought: int
) -> None:
    def uneven(custom_id: str) -> bytes:
        head, _, number = custom_id.partition("-")
        return bytes([int(head)]) + int(number or 0).to_bytes(WIDTH - 1, "big")

    monkeypatch.setattr(request_index, "hashed", uneven)
    monkeypatch.setattr(request_index, "SMALL", 0)
    entries = [entry(n, f"{head}-{n}") for n, head in enumerate(heads * 30)]
    blobs.put("uneven.ids", packed(entries))
    name = blobs.put_manifest("uneven", entries)

    for one in entries[:: len(entries) // 5]:
        assert find(blobs, name, len(entries), one.custom_id) == one
    assert find(blobs, name, len(entries), f"{sought}-{len(entries)}") is None
