"""The charts in docs/architecture.md say what the code says."""

import re
from enum import StrEnum
from pathlib import Path

import pytest

from service.states import TRANSITIONS, BatchState, JobState

DOCUMENT = Path(__file__).parents[2] / "docs" / "architecture.md"
ARROW = re.compile(r"^\s*(\w+) --> (\w+)", re.MULTILINE)


def chart(heading: str) -> set[tuple[str, str]]:
    """The arrows of the chart below a heading, the starts and ends left out."""
    text = DOCUMENT.read_text().split(f"## {heading}\n", 1)[1]
    return set(ARROW.findall(text.split("```mermaid\n", 1)[1].split("```", 1)[0]))


@pytest.mark.parametrize(("heading", "states"), [("A job", JobState), ("A batch", BatchState)])
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
