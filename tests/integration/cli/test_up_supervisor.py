"""The supervisor with real children, in a process of its own so that it can be killed."""

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.cli.run.process import Process, bound, send, spawn
from service.cli.run.supervisor import LONGEST_BACKOFF, backoff
from tests.eventually import eventually
from tests.processes import gone
from tests.servers import open_directory

ROOT = Path(__file__).parents[3]


class Supervised:
    """A supervisor of one of `up_scenarios`, in a process group of its own like a terminal's."""

    def __init__(self, scenario: str, place: Path) -> None:
        self._place = place
        self._up = place / f"{scenario}.up"
        self._log = place / "log"
        argv = [sys.executable, "-m", "tests.integration.cli.up_scenarios", scenario, str(place)]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=ROOT, process_group=0)

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def journal(self) -> list[str]:
        return (self._place / "journal").read_text().splitlines()

    def wait_until_up(self) -> None:
        eventually(self._up.exists)

    def pid(self, name: str) -> int:
        return int(eventually((self._place / f"{name}.pid").read_text))

    def ctrl_c(self) -> None:
        """What a terminal does: SIGINT for the whole group in the foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def stop(self) -> None:
        """End it for sure, in order if it can: a child's own children die only that way."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait(self) -> int:
        return self.process.wait(timeout=30)


Supervise = Callable[[str], Supervised]


@pytest.fixture
def supervise() -> Iterator[Supervise]:
    started: list[Supervised] = []
    with open_directory("supervisor") as place:

        def start(scenario: str) -> Supervised:
            started.append(Supervised(scenario, place))
            return started[-1]

        yield start
        for supervised in started:
            supervised.stop()


def test_parts_start_in_order_and_ctrl_c_stops_them_in_reverse(supervise: Supervise) -> None:
    supervised = supervise("three")
    supervised.wait_until_up()
    supervised.ctrl_c()
    assert supervised.wait() == 0
    assert supervised.journal == [
        *("first starts", "second starts", "third starts"),
        *("third ends", "second ends", "first ends"),
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_requests_to_stop_are_heard_too(supervise: Supervise, number: signal.Signals) -> None:
    supervised = supervise("three")
    supervised.wait_until_up()
    supervised.process.send_signal(number)
    assert supervised.wait() == 0
    assert supervised.journal[3:] == ["third ends", "second ends", "first ends"]


def test_siblings_are_asked_to_stop_at_the_same_time(supervise: Supervise) -> None:
    supervised = supervise("siblings")
    supervised.wait_until_up()
    supervised.ctrl_c()
    assert supervised.wait() == 0
    assert supervised.journal[:3] == ["first starts", "one starts", "other starts"]
    assert set(supervised.journal[5:7]) == {"one ends", "other ends"}
    assert supervised.journal[7:] == ["first ends"]


def test_a_part_starts_only_after_the_one_before_is_ready(supervise: Supervise) -> None:
    supervised = supervise("slow_start")
    supervised.wait_until_up()
    assert supervised.journal == ["slow starts", "slow is ready", "next starts"]


def test_a_signal_while_parts_start_stops_those_that_run(supervise: Supervise) -> None:
    supervised = supervise("one_never_ready")
    eventually(lambda: "never starts" in supervised.journal)
    supervised.ctrl_c()
    assert supervised.wait() == 0
    assert supervised.journal == ["first starts", "never starts", "never ends", "first ends"]


def test_what_dies_is_started_again_after_ever_longer_waits(supervise: Supervise) -> None:
    supervised = supervise("one_crashing")
    eventually(lambda: supervised.journal.count("crashing starts") >= 3)
    supervised.ctrl_c()
    assert supervised.wait() == 0
    assert supervised.journal.count("steady starts") == 1
    assert "ended with status 3" in supervised.log
    assert supervised.log.index("restart_in=0.5") < supervised.log.index("restart_in=1.0")


def test_waits_between_restarts_double_up_to_a_limit() -> None:
    waits = [backoff(failures).total_seconds() for failures in range(1, 9)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff(10_000) == LONGEST_BACKOFF


def test_a_killed_child_comes_back_and_what_it_left_does_not_stay(supervise: Supervise) -> None:
    supervised = supervise("a_family")
    parent, grandchild = supervised.pid("parent"), supervised.pid("grandchild")
    os.kill(parent, signal.SIGKILL)
    eventually(lambda: gone(grandchild))
    eventually(lambda: supervised.journal.count("parent starts") == 2)


def test_nothing_survives_a_killed_supervisor(supervise: Supervise) -> None:
    supervised = supervise("three")
    supervised.wait_until_up()
    pids = [supervised.pid(name) for name in ("first", "second", "third")]
    supervised.process.kill()
    eventually(lambda: all(map(gone, pids)))
    assert supervised.journal == ["first starts", "second starts", "third starts"]


def test_nothing_survives_the_killed_supervisor_of_a_supervisor(supervise: Supervise) -> None:
    supervised = supervise("nested")
    supervised.wait_until_up()
    pids = [supervised.pid(name) for name in ("first", "second", "third")]
    supervised.process.kill()
    eventually(lambda: all(map(gone, pids)))


def test_a_second_ctrl_c_does_not_wait_for_the_slow(supervise: Supervise) -> None:
    supervised = supervise("one_stubborn")
    supervised.wait_until_up()
    supervised.ctrl_c()
    eventually(lambda: "stubborn refuses" in supervised.journal)
    supervised.ctrl_c()
    assert supervised.wait() == 0
    assert supervised.journal[-1] == "kind ends"
    assert "process_killed" in supervised.log


def test_a_child_that_does_not_stop_in_time_is_killed(supervise: Supervise) -> None:
    supervised = supervise("one_stubborn_with_little_time")
    supervised.wait_until_up()
    supervised.ctrl_c()
    assert supervised.wait() == 0
    assert supervised.journal == ["stubborn starts", "stubborn refuses"]
    assert "process_killed" in supervised.log


def test_a_part_that_ends_before_it_is_ready_ends_it_all(supervise: Supervise) -> None:
    supervised = supervise("one_broken")
    assert supervised.wait() == 1
    assert supervised.journal == ["first starts", "first ends"]
    assert "broken ended with status 1 before it was ready" in supervised.log
    assert "ZeroDivisionError" in supervised.log


def test_a_part_that_is_not_ready_in_time_ends_it_all(supervise: Supervise) -> None:
    supervised = supervise("one_ready_too_late")
    assert supervised.wait() == 1
    assert "late was not ready within 0:00:00.300000" in supervised.log


def test_a_program_that_is_not_there_is_named(supervise: Supervise) -> None:
    supervised = supervise("one_missing")
    assert supervised.wait() == 1
    assert supervised.journal == ["first starts", "first ends"]
    assert "/no/such/program: there is no such program" in supervised.log


def test_a_step_ends_before_the_next_part_starts(supervise: Supervise) -> None:
    supervised = supervise("a_step")
    supervised.wait_until_up()
    assert supervised.journal == ["first starts", "step starts", "step finishes", "after starts"]


def test_a_step_that_fails_ends_it_all(supervise: Supervise) -> None:
    supervised = supervise("a_failing_step")
    assert supervised.wait() == 1
    assert supervised.journal == ["first starts", "step starts", "first ends"]
    assert "step ended with status 3" in supervised.log


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@as_root
def test_a_child_that_runs_as_another_user_dies_with_its_parent_too(supervise: Supervise) -> None:
    supervised = supervise("another_user")
    supervised.wait_until_up()
    pid = supervised.pid("other")
    supervised.process.kill()
    eventually(lambda: gone(pid))


@as_root
def test_a_child_that_runs_as_another_user_has_none_of_roots_groups(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = ["sh", "-c", "id -u; id -G"]
    child = spawn(Process(name="id", argv=argv, user="nobody", directory=Path("/"), log=log))
    assert child.wait(timeout=10) == 0
    nobody = pwd.getpwnam("nobody")
    assert log.read_text().split() == [str(nobody.pw_uid), str(nobody.pw_gid)]


def test_a_long_log_is_put_aside_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.cli.run.process.LOG_BYTES", 3)
    log = tmp_path / "log"
    for word in ("first", "second"):
        child = spawn(Process(name="echo", argv=["echo", word], log=log))
        assert child.wait(timeout=10) == 0
    assert (tmp_path / "log.1").read_text() == "first\n"
    assert log.read_text() == "second\n"


def test_a_log_is_kept_short_while_its_process_writes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.cli.run.process.LOG_BYTES", 3)
    log = tmp_path / "log"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    script = f"echo first; read -r _ < {pipe}; echo second"
    child = spawn(Process(name="sh", argv=["sh", "-c", script], log=log))
    eventually(lambda: log.read_text() == "first\n")
    bound(log)
    pipe.write_text("\n")
    assert child.wait(timeout=10) == 0
    assert (log.read_text(), (tmp_path / "log.1").read_text()) == ("second\n", "first\n")
    assert (tmp_path / "log.1").stat().st_mode & 0o077 == 0


def test_a_killed_child_takes_its_group_along(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = spawn(Process(name="sh", argv=["sh", "-c", "sleep 1000 & echo $!; wait"], log=log))
    sleeper = int(eventually(log.read_text))
    send(child, signal.SIGKILL)
    child.wait(timeout=10)
    eventually(lambda: gone(sleeper))


def test_a_child_that_steps_back_does_so_with_its_whole_session(tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = ["sh", "-c", "nice; cat /proc/self/autogroup"]
    nice = os.nice(0)
    child = spawn(Process(name="sh", argv=argv, log=log, nice=7))
    child.wait(timeout=10)
    said = log.read_text().split()
    assert int(said[0]) == nice + 7
    if Path("/proc/self/autogroup").exists():
        assert int(said[-1]) == 7
