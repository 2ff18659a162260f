"""Reading batches and files from answers of odd shapes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.together.lenient import read_json
from service.together.wire import UNKNOWN, read_batch, read_batches, read_created, read_file

BATCH = {"id": "b-1", "status": "COMPLETED", "input_file_id": "file-1", "output_file_id": "file-2"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["id", "status", "progress", "created_at", "input_file_id", "error", "bytes", "job"]


@given(st.dictionaries(st.sampled_from(FIELDS), json_values | st.just("x")) | json_values)
def test_no_shape_breaks_a_reader(data: Any) -> None:
    for read in (read_batch, read_created, read_file):
        read(data)
    read_batches([data], None)


@pytest.mark.parametrize(
    ("written", "progress"),
    [
        (37.5, 37.5),
        ("37.5", 37.5),
        (None, None),
        ("soon", None),
        (float("nan"), None),
        (1e400, None),
        (250, 100.0),
        (-1, 0.0),
        ([], None),
    ],
)
def test_odd_progress_decides_nothing(written: object, progress: float | None) -> None:
    batch = read_batch({**BATCH, "progress": written})
    assert batch is not None
    assert batch.progress == progress


@pytest.mark.parametrize(
    "written",
    [1795872475, 1795872475.0, "1795872475", 1795872475000, "2026-11-28T13:27:55Z"],
)
def test_a_time_is_read_in_every_form(written: object) -> None:
    batch = read_batch({**BATCH, "created_at": written})
    assert batch is not None
    assert batch.created_at == 1795872475


@pytest.mark.parametrize("written", [None, "yesterday", {}, True])
def test_a_time_that_cannot_be_read_is_none(written: object) -> None:
    batch = read_batch({**BATCH, "created_at": written})
    assert batch is not None
    assert batch.created_at is None


@pytest.mark.parametrize("written", [None, 7, "", " ", []])
def test_a_status_that_cannot_be_read_is_unknown_and_not_the_end(written: object) -> None:
    batch = read_batch({**BATCH, "status": written})
    assert batch is not None
    assert batch.status == UNKNOWN
    assert not batch.ended


@pytest.mark.parametrize("alien", [None, 7, "x", [], {}, {"id": None}, {"id": "x" * 9000}])
def test_an_alien_entry_hides_no_other(alien: object) -> None:
    for ids in (None, {"b-1"}):
        found = read_batches([alien, BATCH, alien], ids)
        assert found is not None
        assert [batch.id for batch in found[0]] == ["b-1"]


@pytest.mark.parametrize("size", [0, None, "", "many", -1, [], float("nan")])
def test_a_size_that_tells_nothing_is_none(size: object) -> None:
    file = read_file({"id": "file-1", "bytes": size})
    assert file is not None
    assert file.bytes is None


@pytest.mark.parametrize("size", [12, 12.0, "12"])
def test_a_size_is_read_in_every_form(size: object) -> None:
    file = read_file({"id": "file-1", "bytes": size})
    assert file is not None
    assert file.bytes == 12


@pytest.mark.parametrize("file_id", ["", 7, None, "a\0b", "x" * 9000, {}])
def test_an_id_that_no_row_can_hold_is_none(file_id: object) -> None:
    batch = read_batch({**BATCH, "output_file_id": file_id})
    assert batch is not None
    assert batch.output_file_id is None


def test_the_batch_of_a_create_is_found_bare_or_wrapped() -> None:
    assert read_created(BATCH) == read_created({"job": BATCH}) == read_batch(BATCH)
    assert read_created({"job": None, "warning": "w"}) is None


@pytest.mark.parametrize(
    "data",
    [b'\xef\xbb\xbf{"a": 1}', b'{"a": 1, "b": NaN}', rb'{"a": 1, "b": "\ud83d"}'],
)
def test_almost_json_is_read(data: bytes) -> None:
    assert read_json(data)["a"] == 1


@pytest.mark.parametrize("data", [b"", b"<html>", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  any of them
        read_json(data)
