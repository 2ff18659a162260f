"""A child for the supervisor's tests: `up_child.py PLACE NAME BEHAVIOUR`.

It notes in `PLACE/journal` what happens to it, and leaves its pid in `PLACE/NAME.pid`.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

PLACE, NAME, BEHAVIOUR = Path(sys.argv[1]), sys.argv[2], sys.argv[3]


def note(what: str) -> None:
    with (PLACE / "journal").open("a") as journal:
        journal.write(f"{NAME} {what}\n")


def end(_number: int, _frame: FrameType | None) -> None:
    note("ends")
    sys.exit(0)


def refuse(_number: int, _frame: FrameType | None) -> None:
    note("refuses")


def stay() -> None:
    while True:
        signal.pause()


def get_ready_slowly() -> None:
    time.sleep(0.3)
    note("is ready")
    (PLACE / f"{NAME}.ready").touch()
    stay()


def crash() -> None:
    sys.exit(3)


def finish() -> None:
    time.sleep(0.3)
    note("finishes")


def fork() -> None:
    if pid := os.fork():
        (PLACE / "grandchild.pid").write_text(str(pid))
    stay()


def resist() -> None:
    signal.signal(signal.SIGTERM, refuse)
    (PLACE / f"{NAME}.ready").touch()
    stay()


def part_together() -> None:
    signal.signal(signal.SIGTERM, refuse)
    (PLACE / f"{NAME}.ready").touch()
    while (PLACE / "journal").read_text().count("refuses") < 2:
        time.sleep(0.02)
    note("ends")


BEHAVIOURS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (stay, get_ready_slowly, crash, finish, fork, resist, part_together)
}

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    (PLACE / f"{NAME}.pid").write_text(str(os.getpid()))
    note("starts")
    if BEHAVIOUR not in {"get_ready_slowly", "resist", "part_together"}:
        (PLACE / f"{NAME}.ready").touch()
    BEHAVIOURS[BEHAVIOUR]()
