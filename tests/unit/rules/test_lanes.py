"""How lanes decide: by example, and in worlds of any outages."""

from datetime import timedelta
from itertools import pairwise
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.rules.lanes import (
    AT_ONCE,
    LONGEST_REST,
    OFFENCES,
    Failure,
    Health,
    Phase,
    Seen,
    Trouble,
    counted,
    healed,
    may_go_at_once,
    next_step,
    observe,
    probed_now,
    rank,
    rest_for,
    sent,
    sent_at_once,
    tick,
)
from service.rules.states import LANE_TRANSITIONS, LaneState
from tests.factories import NOW
from tests.lane_world import Arrival, Outage, World

REST = timedelta(seconds=60)
HEALTHY, RESTING, PROBING = LaneState.HEALTHY, LaneState.RESTING, LaneState.PROBING


def ill(
    job: int,
    seconds: float = 0,
    *,
    producer: str = "p",
    lines: int = 100,
    kind: Trouble = Trouble.LINES,
    text: str = "internal server error",
    probe: bool = False,
    jobs: tuple[int, ...] = (),
) -> Seen:
    moment = NOW + timedelta(seconds=seconds)
    failure = Failure(
        batch=UUID(int=job * 10_000 + round(seconds)),
        at=moment,
        kind=kind,
        text=text,
        lines=lines,
        producer=producer,
        jobs=tuple(UUID(int=each) for each in jobs or (job,)),
    )
    return Seen(at=moment, sent_at=moment - REST, producer=producer, failure=failure, probe=probe)


def well(job: int, seconds: float, *, sent_after: float | None = None, producer: str = "p") -> Seen:
    moment = NOW + timedelta(seconds=seconds)
    sent_at = moment - REST / 2 if sent_after is None else NOW + timedelta(seconds=sent_after)
    return Seen(at=moment, sent_at=sent_at, producer=producer, jobs=(UUID(int=job),), well=True)


def after(*seen: Seen, health: Health | None = None) -> Health:
    health = health or Health()
    for each in seen:
        health = observe(tick(health, each.at, REST), each, REST)
    return health


RESTED = after(ill(1), ill(2, 1))


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([ill(1), ill(2)], RESTING),
        ([ill(1), ill(1, 1), ill(1, 2)], HEALTHY),  # one job alone
        ([ill(1, jobs=(1, 2))], RESTING),  # two jobs in a batch that they share
        ([ill(1, lines=9), ill(2, lines=10)], HEALTHY),  # too few requests
        ([ill(1, lines=10), ill(2, lines=10)], RESTING),
        ([ill(1), ill(2, text="timeout")], HEALTHY),  # not alike
        ([ill(1, kind=Trouble.BATCHES, jobs=(1, 2))], HEALTHY),  # one batch
        ([ill(1, kind=Trouble.BATCHES, lines=1), ill(2, kind=Trouble.BATCHES, lines=1)], RESTING),
        ([ill(1, kind=Trouble.CREATES, lines=1), ill(2, kind=Trouble.CREATES, lines=1)], RESTING),
        ([ill(1, kind=Trouble.CREATES), ill(2)], HEALTHY),
        ([ill(1), ill(2, 7200)], HEALTHY),  # long ago
        ([ill(1), well(3, 10, sent_after=5), ill(2, 20)], HEALTHY),  # contradicted
        ([ill(1), well(3, 10, sent_after=-5), ill(2, 20)], RESTING),  # served before, perhaps
        # One producer's failures, while another one is served.
        ([well(3, 0, producer="other"), ill(1, 30), ill(2, 40)], HEALTHY),
        ([well(3, 0, producer="other"), ill(1, 30), ill(2, 40, producer="q")], RESTING),
        ([well(3, 0, producer="other"), ill(1, 330), ill(2, 340)], RESTING),
        ([well(3, 0), ill(1, 30), ill(2, 40)], RESTING),
    ],
)
def test_what_is_evidence_against_a_lane(seen: list[Seen], expected: LaneState) -> None:
    assert after(*seen).state is expected


def test_a_job_that_fails_while_others_are_served_fails_alone() -> None:
    seen: list[Seen] = []
    for n in range(OFFENCES):
        seen += [ill(1, 100 * n), well(3, 100 * n + 20, sent_after=100 * n + 10)]
    assert after(*seen, ill(1, 300), ill(2, 301)).state is HEALTHY
    # Until it is served itself.
    assert after(*seen, well(1, 290), ill(1, 300), ill(2, 301)).state is RESTING


def test_a_rest_ends_in_a_probe_and_a_failed_probe_doubles_it() -> None:
    health = RESTED
    assert (health.rests, health.until) == (1, NOW + timedelta(seconds=61))
    assert tick(health, NOW + timedelta(seconds=60), REST) == health
    health = tick(health, NOW + timedelta(seconds=61), REST)
    assert (health.state, health.phase) == (PROBING, Phase.PROBE)
    health = sent(health, 20, NOW + timedelta(seconds=4000))
    health = observe(health, ill(1, 100, probe=True), REST)
    assert (health.state, health.rests, health.until) == (RESTING, 2, NOW + timedelta(seconds=220))


def test_a_probe_that_never_comes_back_is_ill() -> None:
    health = sent(tick(RESTED, NOW + REST * 2, REST), 20, NOW + REST * 100)
    assert tick(health, NOW + REST * 99, REST).state is PROBING
    assert tick(health, NOW + REST * 100, REST).state is RESTING


def test_a_probe_that_comes_back_well_lets_a_tenth_go_and_then_the_rest() -> None:
    health = after(
        well(3, 200, sent_after=130),
        health=sent(tick(RESTED, NOW + REST * 2, REST), 20, NOW + REST * 99),
    )
    assert (health.state, health.phase, health.budget) == (PROBING, Phase.TENTH, None)
    assert counted(health, 200, NOW).state is HEALTHY
    health = counted(health, 5001, NOW)
    assert health.budget == 501
    assert sent(health, 500, NOW).budget == 1
    assert after(well(1, 300, sent_after=210), health=health).state is HEALTHY
    assert after(ill(1, 300, probe=True), health=health).state is RESTING


def test_what_was_sent_before_the_trouble_only_hastens_the_probe() -> None:
    health = after(well(3, 30, sent_after=-100), health=RESTED)
    assert (health.state, health.phase) == (PROBING, Phase.PROBE)


def test_another_producers_probe_clears_the_lane_if_only_one_was_ill() -> None:
    assert after(well(3, 30, sent_after=10, producer="q"), health=RESTED).state is HEALTHY
    both = after(ill(1), ill(2, 1, producer="q"))
    assert after(well(3, 30, sent_after=10, producer="r"), health=both).phase is Phase.TENTH


def test_a_probe_that_says_nothing_is_followed_by_a_larger_one() -> None:
    health = sent(tick(RESTED, NOW + REST * 2, REST), 20, NOW + REST * 100)
    nothing = Seen(at=NOW + REST * 3, sent_at=NOW + REST * 2, producer="p", probe=True)
    health = observe(health, nothing, REST)
    assert (health.out, health.probe) == (0, 40)


def test_a_create_that_passes_ends_only_what_creates_began() -> None:
    passed = Seen(at=NOW + REST, sent_at=NOW + REST, producer="p", created=True)
    creates = after(ill(1, kind=Trouble.CREATES), ill(2, 1, kind=Trouble.CREATES))
    assert creates.state is RESTING
    assert observe(creates, passed, REST).state is HEALTHY
    assert observe(RESTED, passed, REST).state is RESTING


def test_new_jobs_go_at_once_but_not_for_ever() -> None:
    new = NOW + REST
    job = UUID(int=7)
    assert may_go_at_once(RESTED, job, "p", new)
    assert not may_go_at_once(RESTED, UUID(int=1), "p", new)  # it fell ill
    assert not may_go_at_once(RESTED, job, "p", NOW - REST)  # it waited before
    assert may_go_at_once(RESTED, job, "q", NOW - REST)  # only p's are ill
    assert not may_go_at_once(Health(), job, "p", new)
    health = RESTED
    for number in range(AT_ONCE):
        health = sent_at_once(health, UUID(int=number + 10), "p")
    assert not may_go_at_once(health, job, "p", new)
    assert may_go_at_once(health, job, "q", new)


def test_a_probe_is_rather_one_of_others() -> None:
    ranks = [
        rank(RESTED, UUID(int=job), producer) for job, producer in ((9, "q"), (9, "p"), (1, "p"))
    ]
    assert ranks == sorted(ranks)


def test_rests_double_to_an_hour_and_a_relapse_goes_on_doubling() -> None:
    assert [rest_for(n, REST) // REST for n in (1, 2, 3, 7, 40)] == [1, 2, 4, 60, 60]
    assert rest_for(9, timedelta(hours=2)) == timedelta(hours=2) > LONGEST_REST
    relapsed = after(ill(4, 900), ill(5, 901), health=healed(RESTED, NOW + REST))
    assert relapsed.rests == 2
    later = after(ill(4, 9000), ill(5, 9001), health=healed(RESTED, NOW + REST))
    assert later.rests == 1


def test_an_operator_can_hasten_a_probe() -> None:
    assert probed_now(RESTED, NOW).state is PROBING
    health = sent(probed_now(RESTED, NOW), 20, NOW + REST)
    assert (probed_now(health, NOW).out, probed_now(health, NOW).state) == (0, PROBING)


def test_what_a_lane_remembers_is_stored_and_read_as_it_was() -> None:
    health = sent_at_once(after(well(1, 0), ill(1, 1), ill(2, 2)), UUID(int=5), "q")
    stored = msgspec.json.encode(msgspec.to_builtins(health, str_keys=True))
    assert msgspec.convert(msgspec.json.decode(stored), Health) == health


def test_what_a_lane_remembers_is_bounded() -> None:
    health = Health()
    for n in range(500):
        health = after(ill(n, n, producer=f"p{n}", text=f"{n % 7}"), health=health)
        health = after(well(n + 1000, n, producer=f"q{n}"), health=health)
    assert len(msgspec.json.encode(msgspec.to_builtins(health, str_keys=True))) < 20_000


@pytest.mark.parametrize("state", LaneState)
def test_the_next_step_is_told_of_every_state(state: LaneState) -> None:
    assert next_step(Health(state=state), paused=False) != next_step(Health(), paused=True)


# --- worlds ---------------------------------------------------------------------------------------

HOUR = 3600.0

_arrivals = st.lists(
    st.builds(
        Arrival,
        at=st.floats(0, 12 * HOUR),
        producer=st.sampled_from("ab"),
        requests=st.integers(1, 5000),
    ),
    min_size=1,
    max_size=12,
)
_outages = st.lists(
    st.builds(
        lambda begin, length: Outage(begin, begin + length),
        st.floats(0, 12 * HOUR),
        st.floats(1, 10 * HOUR),
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(_arrivals, _outages, st.sampled_from([30.0, 300.0, 3000.0]))
def test_in_any_outages_every_request_ends_and_every_move_is_listed(
    arrivals: list[Arrival], outages: list[Outage], seconds: float
) -> None:
    total = sum(arrival.requests for arrival in arrivals)
    arrived = 0

    def check(world: World) -> None:
        nonlocal arrived
        arrived = sum(a.requests for a in arrivals if a.at <= world.now)
        open_ = sum(part.requests for part in world.waiting)
        open_ += sum(batch.part.requests for batch in world.running)
        assert world.served + world.dead + open_ == arrived

    world = World(arrivals, outages, seconds, check=check).run(200 * HOUR)

    assert (world.served + world.dead, world.waiting, world.running) == (total, [], [])
    states = [HEALTHY, *(state for _, state in world.moves)]
    assert all(target in LANE_TRANSITIONS[source] for source, target in pairwise(states))


def test_an_outage_of_a_day_costs_no_request_and_little_in_vain() -> None:
    arrivals = [Arrival(n * 600.0, f"p{n % 3}", 500) for n in range(200)]
    outage = [Outage(4 * HOUR, 28 * HOUR)]
    world = World(arrivals, outage).run(200 * HOUR)
    before = World(arrivals, outage, learns=False).run(200 * HOUR)
    assert (world.dead, world.served) == (0, 100_000)
    assert before.dead > 0
    assert world.vain < before.vain / 5
    ((_, drained),) = world.drained
    assert drained < HOUR + 4 * 300


def test_one_sick_job_among_others_holds_nobody_up() -> None:
    arrivals = [Arrival(n * 300.0, f"p{n % 3}", 500) for n in range(50)]
    world = World(arrivals, [Outage(0, 99 * HOUR, frozenset({7}))]).run(99 * HOUR)
    assert world.moves == []
    assert world.dead == world.dead_of[7] == 500
    assert {delay for job, delay in world.delays.items() if job != 7} == {300.0}


def test_a_producer_whose_jobs_all_fail_holds_its_neighbours_up_only_for_probes() -> None:
    arrivals = [Arrival(n * 300.0, "ill" if n % 2 else "well", 500) for n in range(200)]
    sick = frozenset(range(1, 200, 2))
    world = World(arrivals, [Outage(0, 99 * HOUR, sick)]).run(99 * HOUR)
    assert set(world.dead_of) <= sick
    late = sorted(delay for job, delay in world.delays.items() if job not in sick)
    assert late[-1] <= 900.0
    assert late[len(late) // 2] == 300.0
