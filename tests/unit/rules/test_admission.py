"""Who is let in next: priority, fairness, and that nothing waits for ever."""

from copy import deepcopy
from datetime import timedelta
from itertools import count, product
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.rules.admission import OLDEST, Capacity, Load, Scene, Waiting, choose
from tests.factories import CHAT, NOW

WIDE = Capacity(batches=None, tokens=10**12)
_numbers = count()


def waiting(
    producer: str = "p", *, age: int = 0, priority: int = 0, model: str = "m", tokens: int = 1
) -> Waiting:
    """A batch of ten requests that has waited for `age` seconds."""
    return Waiting(
        id=UUID(int=next(_numbers)),
        lane=("default", CHAT, model),
        producer=producer,
        priority=priority,
        since=NOW - timedelta(seconds=age),
        requests=10,
        tokens=tokens,
    )


def let_in(
    found: list[Waiting], limit: int, capacity: Capacity = WIDE, **load: int
) -> list[Waiting]:
    scene = Scene()
    scene.lanes["default", CHAT, "m"] = Load(**load)
    return choose(found, scene, capacity, limit)


def test_what_waits_longest_goes_first() -> None:
    young, old, older = waiting(age=1), waiting(age=2), waiting(age=3)
    assert let_in([young, older, old], 2) == [older, old]


def test_a_higher_priority_goes_before_an_older_batch() -> None:
    old, urgent = waiting(age=9), waiting(priority=1)
    assert let_in([old, urgent], 2) == [urgent, old]


def test_a_producer_with_much_does_not_stand_before_one_with_little() -> None:
    many = [waiting("many", age=100 - n) for n in range(20)]
    few = waiting("few")
    assert few in let_in([*many, few], 2)


def test_producers_take_turns_by_what_they_have_under_way() -> None:
    one = [waiting("one", age=9) for _ in range(4)]
    two = [waiting("two", age=1) for _ in range(4)]
    scene = Scene()
    scene.producers["one"] = 20
    chosen = [batch.producer for batch in choose([*one, *two], scene, WIDE, 6)]
    assert chosen == ["two", "two", "one", "two", "one", "two"]


def test_an_account_holds_no_more_batches_of_a_model_than_it_may() -> None:
    found = [waiting(age=n) for n in range(9)]
    capacity = Capacity(batches=5, tokens=10**12)
    assert len(let_in(found, 9, capacity, batches=3)) == 2
    assert let_in(found, 9, capacity, batches=7) == []


def test_a_full_lane_does_not_hold_up_another() -> None:
    full, free = waiting(age=9), waiting(model="other")
    assert let_in([full, free], 9, Capacity(batches=1, tokens=100), batches=1) == [free]


def test_the_tokens_of_a_lane_are_bounded() -> None:
    found = [waiting(age=9 - n, tokens=40) for n in range(5)]
    assert let_in(found, 9, Capacity(batches=None, tokens=100)) == found[:2]


def test_a_batch_above_the_whole_budget_goes_in_alone() -> None:
    huge, small = waiting(age=9, tokens=500), waiting("other", tokens=1)
    capacity = Capacity(batches=None, tokens=100)
    assert let_in([huge, small], 9, capacity) == [huge]
    assert let_in([huge, small], 9, capacity, batches=1, tokens=1) == [small]


def test_every_eighth_is_the_oldest_whatever_its_priority() -> None:
    patient = waiting("patient", age=1000, priority=-1000)
    busy = [waiting("busy", age=n, priority=1000) for n in range(100)]
    assert let_in([patient, *busy], 50).index(patient) == OLDEST - 1


def test_no_small_batch_slips_past_a_large_one_whose_turn_it_is() -> None:
    large = waiting(age=1000, tokens=90)
    small = [waiting("other", age=n, tokens=10, priority=5) for n in range(9)]
    capacity = Capacity(batches=None, tokens=100)
    turn = OLDEST - 1
    assert let_in([large, *small], 9, capacity, batches=5, tokens=50, admitted=turn) == []
    assert let_in([large, *small], 9, capacity, batches=1, tokens=10, admitted=turn)[0] is large


def plainly(found: list[Waiting], scene: Scene, capacity: Capacity, limit: int) -> list[Waiting]:
    """The rule as it is told, without any thought of how long it takes."""
    scene = deepcopy(scene)
    left, chosen = list(found), list[Waiting]()
    while len(chosen) < limit:
        groups: dict[object, Waiting] = {}
        for batch in sorted(left, key=lambda b: b.since):
            groups.setdefault((batch.lane, batch.priority, batch.producer), batch)
        fit = []
        for head in groups.values():
            load = scene.lanes[head.lane]
            of_lane = [other for other in groups.values() if other.lane == head.lane]
            oldest = min(of_lane, key=lambda b: b.since)
            may = head is oldest or load.admitted % OLDEST != OLDEST - 1
            if may and load.lacks(capacity, head.tokens) is None:
                fit.append(head)
        if not fit:
            break
        admitted = sum(load.admitted for load in scene.lanes.values())
        if admitted % OLDEST == OLDEST - 1:
            best = min(fit, key=lambda b: b.since)
        else:
            best = min(fit, key=lambda b: (-b.priority, scene.producers[b.producer], b.since))
        left.remove(best)
        scene.add(best)
        chosen.append(best)
    return chosen


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_the_quick_choice_is_the_plain_one(data: st.DataObject) -> None:
    names = st.sampled_from("abc")
    ages = data.draw(st.lists(st.integers(0, 10_000), unique=True, max_size=40))
    found = [
        waiting(
            data.draw(names),
            age=age,
            priority=data.draw(st.integers(0, 2)),
            model=data.draw(names),
            tokens=data.draw(st.integers(1, 50)),
        )
        for age in ages
    ]
    scene = Scene()
    for model in "abc":
        scene.lanes["default", CHAT, model] = Load(
            batches=data.draw(st.integers(0, 3)),
            tokens=data.draw(st.integers(0, 60)),
            admitted=data.draw(st.integers(0, 16)),
        )
    for producer in "abc":
        scene.producers[producer] = data.draw(st.integers(0, 40))
    capacity = Capacity(
        batches=data.draw(st.none() | st.integers(1, 9)), tokens=data.draw(st.integers(20, 300))
    )
    limit = data.draw(st.integers(0, 40))
    expected = plainly(found, scene, capacity, limit)
    assert choose(found, scene, capacity, limit) == expected


@pytest.mark.parametrize(
    ("lanes", "producers", "priorities"),
    [(1, 500, 10), (1, 5_000, 1), (5_000, 1, 1), (50, 10, 10), (10, 500, 1)],
)
def test_choosing_does_not_look_at_every_group_for_every_place(
    monkeypatch: pytest.MonkeyPatch, lanes: int, producers: int, priorities: int
) -> None:
    looks = 0
    lacks = Load.lacks

    def counted(load: Load, capacity: Capacity, tokens: int) -> str | None:
        nonlocal looks
        looks += 1
        return lacks(load, capacity, tokens)

    monkeypatch.setattr(Load, "lacks", counted)
    found = [
        waiting(f"p{producer}", age=number, priority=priority, model=f"m{lane}")
        for number, (lane, producer, priority) in enumerate(
            product(range(lanes), range(producers), range(priorities))
        )
    ]
    assert (len(found), len(choose(found, Scene(), WIDE, 600))) == (5_000, 600)
    assert looks < 20 * len(found)  # not 600 times
