"""Which bytes are cut out of a blob, and which are read to get them."""

from hypothesis import given
from hypothesis import strategies as st

from service.payloads.excerpts import GAP, cut, neighbours

GAPS_AND_LENGTHS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), max_size=20)


def _ranges(drawn: list[tuple[int, int]]) -> list[tuple[int, int]]:
    at, ranges = 0, []
    for gap, length in drawn:
        ranges.append((at + gap, length))
        at += gap + length
    return ranges


@given(drawn=GAPS_AND_LENGTHS, size=st.integers(1, 40))
def test_exactly_the_ranges_are_cut_out_of_whatever_blocks(
    drawn: list[tuple[int, int]], size: int
) -> None:
    data = bytes(range(256)) * 5
    ranges = _ranges(drawn)
    sent = b""
    for near in neighbours(ranges):
        start, end = near[0][0], sum(near[-1])
        blocks = (data[at : min(at + size, end)] for at in range(start, end, size))
        sent += b"".join(cut(blocks, near))
    assert sent == b"".join(data[start : start + length] for start, length in ranges)


def test_a_wide_gap_is_not_read() -> None:
    near, far = (0, 10), (20, 5)
    beyond = (25 + GAP + 1, 7)
    assert list(neighbours([near, far, beyond])) == [[near, far], [beyond]]
