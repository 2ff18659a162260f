"""What came of a year, as charts and a table: `python -m tests.virtual_time.report YEAR.JSON`.

The charts go to docs/year-*.svg, the table to standard output, from where docs/year.md has it.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.charts import Chart
from tests.virtual_time.measuring import slope

DOCS = Path("docs")
SHOWN_PROCESSES = ("api", "worker", "scheduler", "inbox", "postgres", "valkey-server")
GROWING = ("events", "parts", "jobs", "batches", "forecasts", "usage", "dead_letters")
MB = 1 << 20
FULL = 42.0
"""Days after which retention takes away as much as comes: its own, and a week."""

Year = Mapping[str, Any]


def read(path: Path) -> Year:
    """What a run has left."""
    known: Year = json.loads(path.read_bytes())
    return known


def charts(year: Year) -> dict[str, Chart]:
    """By the name of the file."""
    weeks = year["measured"]
    largest = sorted(GROWING, key=lambda name: -_size(weeks[-1], name))[:5]
    return {
        "year-memory": Chart(
            "Memory of each process, its children included",
            *("day", "MB"),
            {name: _series(weeks, "memory", name) for name in SHOWN_PROCESSES},
        ),
        "year-tables": Chart(
            "The largest tables, indexes included",
            *("day", "KB"),
            {name: [(w["day"], _size(w, name) / 1024) for w in weeks] for name in largest},
        ),
        "year-latency": Chart(
            "Haulier's own work for a job of 100 requests",
            *("day", "milliseconds"),
            {
                "median": [
                    (w["day"], 1000 * statistics.median(w["probe"])) for w in weeks if w["probe"]
                ],
                "a tick": list(_ticks(weeks)),
            },
        ),
        "year-files": Chart(
            "Rows of jobs, blobs, and files at the provider",
            *("day", ""),
            {
                "jobs": [(w["day"], w["jobs"]) for w in weeks],
                "blobs": [(w["day"], w["blobs"]) for w in weeks],
                "provider files": [(w["day"], w["provider_files"]) for w in weeks],
            },
        ),
    }


def table(year: Year) -> list[tuple[str, str]]:
    """The figures, in the order in which they are told."""
    weeks = year["measured"]
    wrong = sum(len(found) for a in year["audits"] for found in a["violations"].values())
    bought = year["audits"][-1]["figures"]["requests paid for"]
    rows = [
        ("virtual days", f"{weeks[-1]['day']:.0f}"),
        ("true minutes", f"{year['seconds'] / 60:.0f}"),
        ("jumps of the clock", f"{year['jumps']:,}"),
        ("jobs, requests", f"{year['jobs']:,}, {year['requests']:,}"),
        ("requests paid for", f"{bought:,}"),
        ("deploys", f"{year['deploys']}"),
        ("audits, promises that they found broken", f"{len(year['audits'])}, {wrong}"),
    ]
    full = [w for w in weeks if w["day"] > FULL] or weeks
    for name in SHOWN_PROCESSES:
        points = _series(full, "memory", name)
        rows.append(
            (
                f"memory of {name}",
                f"{points[0][1]:.0f} MB at first, {points[-1][1]:.0f} MB at last,"
                f" {slope(points) * 28:+.2f} MB a month",
            )
        )
    probes = [w["probe"] for w in weeks if w["probe"]]
    if probes:
        first, last = (1000 * statistics.median(of) for of in (probes[0], probes[-1]))
        rows.append(("work for a job of 100 requests", f"{first:.0f} ms, then {last:.0f} ms"))
    for name in GROWING:
        first, last = full[0]["tables"][name], full[-1]["tables"][name]
        rows.append(
            (
                f"table {name}",
                f"{first[2]:,} rows in {sum(first[:2]) / 1024:,.0f} KB, then"
                f" {last[2]:,} in {sum(last[:2]) / 1024:,.0f} KB, {last[3]:,} of them dead",
            )
        )
    ended, in_time, half, half_in_time = weeks[-1]["coverage"]
    if ended and half:
        rows.append(
            (
                "jobs that ended before the 90 % instant of their forecast",
                f"{in_time / ended:.0%} of {ended:,}, {half_in_time / half:.0%} at half time",
            )
        )
    last = weeks[-1]
    rows.append(("jobs kept, blobs", f"{last['jobs']:,}, {last['blobs']:,}"))
    rows.append(("blobs of jobs and batches that are gone", f"{last['orphans']:,}"))
    rows.append(("oldest finished job, days", f"{last['oldest']:.1f}"))
    rows.append(("files left at the provider", f"{last['provider_files']:,}"))
    return rows


def _size(week: Mapping[str, Any], name: str) -> int:
    heap, indexes, *_ = week["tables"][name]
    return int(heap + indexes)


def _series(weeks: Sequence[Mapping[str, Any]], kind: str, name: str) -> list[tuple[float, float]]:
    return [(week["day"], week[kind][name]) for week in weeks if name in week[kind]]


def _ticks(weeks: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, float]]:
    """The mean of each week's ticks."""
    seconds, count = 0.0, 0.0
    for week in weeks:
        now_seconds, now_count = week["ticks"]
        if now_count > count:
            yield week["day"], 1000 * (now_seconds - seconds) / (now_count - count)
        seconds, count = now_seconds, now_count


def write(path: Path) -> None:
    """The charts into the docs, and the table onto the screen."""
    year = read(path)
    for name, chart in charts(year).items():
        (DOCS / f"{name}.svg").write_text(chart.svg())
    for name, value in table(year):
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
