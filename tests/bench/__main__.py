"""`python -m tests.bench [NAME…] [--long] [--SETTING NUMBER…]`: measure, print, write the page."""

import argparse
import dataclasses
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import (
    calls,
    checks,
    console,
    database,
    end_to_end,
    foresight,
    memory,
    outage,
    polling,
    reconcile,
    scheduling,
    split,
    submissions,
    swarm,
)
from tests.bench.figures import Section, write
from tests.bench.size import LONG, SHORT, Size

MEASUREMENTS: dict[str, Callable[[Size], Section]] = {
    "split": split.measure,
    "reconcile": reconcile.measure,
    "checks": checks.measure,
    "end-to-end": end_to_end.measure,
    "memory": memory.measure,
    "polling": polling.measure,
    "scheduling": scheduling.measure,
    "submissions": submissions.measure,
    "swarm": swarm.measure,
    "calls": calls.measure,
    "database": database.measure,
    "outage": outage.measure,
    "forecast": foresight.measure,
    "console": console.measure,
}
COUNTS = [name for name, kind in Size.__annotations__.items() if kind is int]


def main() -> int:
    """Run what was asked for. Returns the exit status."""
    options = _parser().parse_args()
    given = {name: getattr(options, name) for name in COUNTS if getattr(options, name) is not None}
    size = dataclasses.replace(LONG if options.long else SHORT, **given)
    conditions = _conditions(options.long, given)
    for name in options.names or MEASUREMENTS:
        started = time.monotonic()
        section = MEASUREMENTS[name](size)
        for row in section.rows:
            print(row, flush=True)
        print(f"  {name} took {time.monotonic() - started:.0f} s", flush=True)
        if not options.dry:
            write(name, section, conditions)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    # argparse holds an empty list against the choices, so they are checked by the type.
    parser.add_argument(
        "names", nargs="*", type=_name, metavar="NAME", help=", ".join(MEASUREMENTS)
    )
    parser.add_argument("--long", action="store_true", help="millions of requests, an hour")
    parser.add_argument("--dry", action="store_true", help="print only, leave docs/ alone")
    for name in COUNTS:
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"{getattr(SHORT, name):,}"
        )
    return parser


def _name(text: str) -> str:
    if text not in MEASUREMENTS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(MEASUREMENTS)}")
    return text


def _conditions(long: bool, given: dict[str, int]) -> str:
    """What a section was measured on."""
    changed = "".join(f", {name} {value:,}" for name, value in given.items())
    form = "long form" if long else "short form"
    return (
        f"{time.strftime('%Y-%m-%d')}, {_commit()}, {form}{changed};"
        f" {os.cpu_count()} cores ({_processor()}), Python {platform.python_version()}"
    )


def _commit() -> str:
    """The commit, and whether code that is measured differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "config", "service", "workers")
    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    return f"commit {commit}{' + changes' if changed else ''}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
