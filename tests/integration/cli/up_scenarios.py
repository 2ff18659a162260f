"""Supervisors for the tests: `python -m tests.integration.cli.up_scenarios SCENARIO PLACE`."""

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from service.cli.run.process import Process
from service.cli.run.supervisor import Part, Siblings, Step, Supervisor
from service.cli.up.errors import StartError

CHILD = Path(__file__).with_name("up_child.py")
LONG = timedelta(hours=1)
SHORT = timedelta(seconds=0.3)

Parts = list[Part]


def child(place: Path, name: str, behaviour: str = "stay") -> Process:
    return Process(
        name=name,
        argv=[sys.executable, str(CHILD), str(place), name, behaviour],
        ready=(place / f"{name}.ready").exists,
    )


def three(place: Path) -> Parts:
    return [child(place, name) for name in ("first", "second", "third")]


def siblings(place: Path) -> Parts:
    """Two that end only when both have been asked to."""
    pair = (child(place, "one", "part_together"), child(place, "other", "part_together"))
    return [child(place, "first"), Siblings(pair)]


def slow_start(place: Path) -> Parts:
    return [child(place, "slow", "get_ready_slowly"), child(place, "next")]


def one_never_ready(place: Path) -> Parts:
    never = replace(child(place, "never"), ready=lambda: False)
    return [child(place, "first"), never, child(place, "after")]


def one_ready_too_late(place: Path) -> Parts:
    return [replace(child(place, "late"), ready=lambda: False, start_timeout=SHORT)]


def one_crashing(place: Path) -> Parts:
    return [child(place, "steady"), child(place, "crashing", "crash")]


def one_broken(place: Path) -> Parts:
    broken = Process(
        name="broken",
        argv=[sys.executable, "-c", "print(1 / 0)"],
        log=place / "broken.log",
        ready=lambda: False,
    )
    return [child(place, "first"), broken, child(place, "after")]


def one_missing(place: Path) -> Parts:
    return [child(place, "first"), Process(name="ghost", argv=["/no/such/program"])]


def a_family(place: Path) -> Parts:
    return [child(place, "parent", "fork")]


def nested(place: Path) -> Parts:
    return [
        Process(
            name="outer",
            argv=[sys.executable, "-m", "tests.integration.cli.up_scenarios", "three", str(place)],
            ready=(place / "third.ready").exists,
        )
    ]


def one_stubborn(place: Path) -> Parts:
    stubborn = replace(child(place, "stubborn", "resist"), stop_timeout=LONG)
    return [child(place, "kind"), stubborn]


def one_stubborn_with_little_time(place: Path) -> Parts:
    return [replace(child(place, "stubborn", "resist"), stop_timeout=SHORT)]


def a_step(place: Path) -> Parts:
    return [child(place, "first"), Step(child(place, "step", "finish")), child(place, "after")]


def a_failing_step(place: Path) -> Parts:
    return [child(place, "first"), Step(child(place, "step", "crash")), child(place, "after")]


def another_user(place: Path) -> Parts:
    place.chmod(0o777)
    program = "echo $$ > other.pid; touch other.ready; sleep 1000 & wait"
    ready = (place / "other.ready").exists
    argv = ["sh", "-c", program]
    return [Process(name="other", argv=argv, user="nobody", directory=place, ready=ready)]


SCENARIOS: dict[str, Callable[[Path], Parts]] = {
    function.__name__: function
    for function in (
        *(
            three,
            siblings,
            slow_start,
            one_never_ready,
            one_ready_too_late,
            one_crashing,
            one_broken,
        ),
        *(one_missing, a_family, nested, one_stubborn, one_stubborn_with_little_time),
        *(a_step, a_failing_step, another_user),
    )
}


def main(scenario: str, place: Path) -> None:
    parts = SCENARIOS[scenario](place)
    try:
        Supervisor(parts, on_ready=(place / f"{scenario}.up").touch).run()
    except StartError as error:
        sys.exit(f"failed: {error}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
