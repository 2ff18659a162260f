"""The rate of control calls, shared over a real Valkey."""

import multiprocessing
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from service.rules.errors import Transient
from service.together.client import Together
from service.together.transport import open_pool
from tests.servers import Servers
from tests.simulator import KEY, Simulator
from workers.ratelimit import RateLimit, window

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("per_second", "calls", "seconds"),
    [
        (10, 10, 1),
        (1, 1, 1),
        (2.5, 5, 2),
        (33.33, 333, 10),
        (0.7, 7, 10),
        (0.5, 1, 2),
        (0.05, 1, 20),
        (1 / 90, 1, 90),
    ],
)
def test_a_rate_is_so_many_calls_in_whole_seconds(
    per_second: float, calls: int, seconds: int
) -> None:
    assert (window(per_second).amount, window(per_second).get_expiry()) == (calls, seconds)


def _call(redis_url: str, url: str, times: int) -> None:
    gate = RateLimit(redis_url, 10).gate("default", SECOND * 60)
    with open_pool(SECOND * 10) as pool:
        together = Together(pool, url, KEY, gate=gate)
        for _ in range(times):
            together.batches()


def test_two_processes_keep_one_rate_between_them(redis_url: str, simulator: Simulator) -> None:
    context = multiprocessing.get_context("spawn")
    callers = [context.Process(target=_call, args=(redis_url, simulator.url, 15)) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
    assert [caller.exitcode for caller in callers] == [0, 0]
    at = [call.at for call in simulator.requests("list")]
    assert len(at) == 30
    # Each is let through in time, but may arrive a little late.
    closest = min(later - first for first, later in zip(at, at[10:], strict=False))
    assert closest > 0.8


@pytest.fixture
def limit(redis_url: str) -> Iterator[RateLimit]:
    made = RateLimit(redis_url, 1)
    yield made
    made.close()


def test_accounts_have_each_a_rate_of_their_own(limit: RateLimit) -> None:
    for account in ("default", "research"):
        limit.gate(account, SECOND / 100)()


def test_who_would_wait_too_long_for_a_turn_sends_nothing(limit: RateLimit) -> None:
    limit.gate("default", SECOND)()
    with pytest.raises(Transient, match="HAULIER_CONTROL_REQUESTS_PER_SECOND") as raised:
        limit.gate("default", SECOND / 10)()
    assert not raised.value.sent


def test_the_patience_of_a_claim_is_for_all_its_calls(limit: RateLimit) -> None:
    gate = limit.gate("default", SECOND * 1.5)
    gate()
    gate()
    with pytest.raises(Transient):
        gate()


def test_without_redis_calls_go_through(private_servers: Servers) -> None:
    limit = RateLimit(private_servers.valkey.url, 1)
    private_servers.valkey.kill()
    gate = limit.gate("default", SECOND / 10)
    started = time.monotonic()
    for _ in range(5):
        gate()
    assert time.monotonic() - started < 30
    limit.close()
