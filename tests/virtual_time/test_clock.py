"""The virtual clock."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.servers import open_directory
from tests.simulator import Simulator
from tests.together_by_hand import ByHand, chat_line
from tests.virtual_time.clock import VirtualClock, works_here

pytestmark = pytest.mark.skipif(not works_here(), reason="needs Linux and a C compiler")

ASKING = """
import sys, time
for line in sys.stdin:
    began = time.monotonic()
    time.sleep(0.05)
    print(time.time(), time.monotonic() - began, flush=True)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_directory("clock") as directory:
        yield directory


def test_a_jump_moves_the_wall_clock_of_a_process_and_none_of_its_pauses(folder: Path) -> None:
    clock = VirtualClock(folder, begin_ago=timedelta(days=400))
    with subprocess.Popen(
        [sys.executable, "-c", ASKING],
        env={**os.environ, **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> tuple[float, float]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            now, paused = process.stdout.readline().split()
            return float(now), float(paused)

        for jump in (timedelta(), timedelta(days=30), timedelta(days=370)):
            clock.jump(jump)
            now, paused = ask()
            assert abs(now - clock.time()) < 10
            assert 0.04 < paused < 10
        process.stdin.close()
    assert clock.offset == timedelta()
    assert abs(clock.time() - time.time()) < 1


def test_the_clock_does_not_go_back(folder: Path) -> None:
    with pytest.raises(AssertionError, match="cannot go back"):
        VirtualClock(folder).jump(timedelta(seconds=-1))


def test_the_simulator_notices_that_the_clock_was_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock(folder)
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    simulator = Simulator(batch_seconds=3600)
    with simulator, ByHand(simulator.url) as together:
        batch = together.create(together.upload([chat_line("a")]))
        eventually(lambda: together.batch(batch)["status"] == "IN_PROGRESS")
        clock.jump(timedelta(hours=2))
        assert together.ended(batch)["status"] == "COMPLETED"
