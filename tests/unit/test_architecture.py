"""The charts in docs/architecture.md say what the code says."""

import re
import tomllib
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

import pytest

from service.rules.states import TRANSITIONS, BatchState, JobState, LaneState, PartState

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
ARROW = re.compile(r"^\s*(\w+) --> (\w+)", re.MULTILINE)


def chart(heading: str) -> set[tuple[str, str]]:
    """The arrows of the chart below a heading, the starts and ends left out."""
    text = DOCUMENT.read_text().split(f"## {heading}\n", 1)[1]
    return set(ARROW.findall(text.split("```mermaid\n", 1)[1].split("```", 1)[0]))


STATES = [
    ("A job", JobState),
    ("A part", PartState),
    ("A batch", BatchState),
    ("A lane", LaneState),
]


@pytest.mark.parametrize(("heading", "states"), STATES)
def test_a_chart_shows_exactly_the_moves_of_the_table(heading: str, states: type[StrEnum]) -> None:
    listed = {
        (str(source), str(target))
        for source, targets in TRANSITIONS[states].items()
        for target in targets
    }

    assert chart(heading) == listed


def test_every_file_that_the_document_names_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", DOCUMENT.read_text())

    assert links
    assert [link for link in links if not (DOCUMENT.parent / link).exists()] == []


def layers() -> list[set[str]]:
    """The folders of `service` by layer, from the import contracts."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (inside,) = [c for c in contracts["contracts"] if c.get("containers") == ["service"]]
    return [{name.strip() for name in re.split(r"[|:]", layer)} for layer in inside["layers"]]


def test_the_drawing_of_the_folders_is_that_of_the_import_contracts() -> None:
    text = DOCUMENT.read_text().split("## Folders\n", 1)[1]
    drawing = text.split("```mermaid\n", 1)[1].split("```", 1)[0]
    arrows = re.findall(r"^\s*([\w& ]+) --> ([\w& ]+)$", drawing, re.MULTILINE)
    drawn = [tuple(set(re.findall(r"\w+", end)) for end in arrow) for arrow in arrows]

    assert drawn == list(pairwise(layers()))


def test_the_document_has_a_line_for_every_folder() -> None:
    text = DOCUMENT.read_text().split("## Folders\n", 1)[1].split("\n\n", 1)[0]
    listed = {name.rstrip("/") for name in re.findall(r"^\| `([\w/]+)`", text, re.MULTILINE)}

    inside = {f"service/{name}" for layer in layers() for name in layer}
    assert listed == inside | {"config", "workers", "client"}


def test_service_has_folders_only() -> None:
    files = [file.name for file in (ROOT / "service").glob("*.py")]

    assert files == ["__init__.py"]
