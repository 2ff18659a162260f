"""The table of docs/performance.md: rows, and the sections they stand in."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.charts import Chart

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "performance.md"
COLUMNS = ("measured", "figure", "floor", "ratio", "wanted", "beside it")


@dataclass(frozen=True)
class Row:
    """One figure. `floor` is the same work done bare in the same run; `wanted` is the target."""

    measured: str
    figure: float | str
    unit: str = ""
    floor: float | None = None
    wanted: str = ""
    beside: str = ""

    def __str__(self) -> str:
        ratio = ""
        if self.floor and not isinstance(self.figure, str):
            ratio = f"{self.figure / self.floor:.2f}"
        floor = "" if self.floor is None else _with_unit(self.floor, self.unit)
        cells = (self.measured, _with_unit(self.figure, self.unit), floor, ratio)
        return "| " + " | ".join((*cells, self.wanted, self.beside)) + " |"


@dataclass
class Section:
    """What one measurement found."""

    rows: list[Row] = field(default_factory=list)
    notes: str = ""
    charts: dict[str, Chart] = field(default_factory=dict)
    """By the name of their file in docs/, without its ending."""


def shown(value: float) -> str:
    """Three digits, as far as they mean something."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _with_unit(value: float | str, unit: str) -> str:
    text = value if isinstance(value, str) else shown(value)
    return f"{text} {unit}".strip()


def write(name: str, section: Section, conditions: str) -> None:
    """Put a section in its place between its markers, and its charts beside the page."""
    for chart_name, chart in section.charts.items():
        (DOCS / f"{chart_name}.svg").write_text(chart.svg())
    head = [f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
    parts = ["\n".join([*head, *map(str, section.rows)])]
    parts += [f"![{chart.title}]({file}.svg)" for file, chart in section.charts.items()]
    parts += [part for part in (section.notes, f"<sub>{conditions}</sub>") if part]
    PAGE.write_text(_put(PAGE.read_text(), name, "\n\n".join(parts)))


def _put(page: str, name: str, content: str) -> str:
    """The page with what stands between a section's markers replaced. Raises ValueError."""
    begin, end = f"<!-- bench: {name} -->", f"<!-- end of {name} -->"
    found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if len(found.findall(page)) != 1:
        raise ValueError(f"{PAGE} has no section {name}: it needs {begin} and {end} once")
    return found.sub(lambda _: f"{begin}\n{content}\n{end}", page)
