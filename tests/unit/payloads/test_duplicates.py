"""Custom_ids that are used twice are found, however many there are."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.payloads import duplicates
from service.payloads.duplicates import Hashes


def _repeated(ids: list[str], run: int, scratch: Path, most: int = 10_000) -> tuple[set[int], int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "RUN", run)
        hashes = Hashes(scratch)
        for start in range(0, len(ids), 3):
            hashes.add(ids[start : start + 3])
        found, surplus = hashes.repeated(most)
        hashes.close()
    return set(found), surplus


@given(ids=st.lists(st.sampled_from("abcdefghijklmnop"), max_size=60), run=st.integers(1, 30))
def test_what_is_there_twice_is_found_in_memory_and_on_scratch(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], run: int
) -> None:
    scratch = tmp_path_factory.getbasetemp()
    twice = {hash(one) for one in ids if ids.count(one) > 1}
    assert _repeated(ids, run, scratch) == (twice, len(ids) - len(set(ids)))


def test_no_more_suspects_than_asked_for_but_all_are_counted(tmp_path: Path) -> None:
    ids = [str(number) for number in range(500)] * 2
    found, surplus = _repeated(ids, 64, tmp_path, most=10)
    assert len(found) == 10
    assert surplus == 500


def test_scratch_space_is_given_back(tmp_path: Path) -> None:
    _repeated([str(number) for number in range(100)], 10, tmp_path)
    assert list(tmp_path.iterdir()) == []
