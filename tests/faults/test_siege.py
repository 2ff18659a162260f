"""A short siege. How much slower the other producer is depends on the machine: see make siege."""

from tests.faults.siege import run


def test_a_producer_works_on_while_another_is_hostile() -> None:
    found = run(8)

    print(found.table())
    assert not found.broken, found.table()
