"""The pages fit together, and those that are made from the code are up to date."""

import re
from pathlib import Path

import pytest

from tests.docs import reference

PAGES = [
    *sorted(reference.ROOT.glob("*.md")),
    reference.ROOT / "client" / "README.md",
    *sorted((reference.ROOT / "docs").rglob("*.md")),
]


@pytest.mark.parametrize("name", reference.pages())
def test_a_page_made_from_the_code_is_up_to_date(name: str) -> None:
    written = (reference.REFERENCE / name).read_text()

    assert written == reference.pages()[name], "run: python -m tests.docs.reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(reference.ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())

    assert not [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("row", ["settings", "spec"])
def test_no_field_of_the_reference_is_without_words(row: str) -> None:
    lines = reference.pages()[f"{row}.md"].splitlines()

    assert not [line for line in lines if line.startswith("| `") and line.endswith("|  |")]


def test_every_event_of_the_log_is_a_constant_that_the_reference_lists() -> None:
    """But for three places, whose words come from two tables and from callers."""
    odd = [
        f"{path.relative_to(reference.ROOT)}: {line.strip()}"
        for folder in ("config", "service", "workers")
        for path in sorted((reference.ROOT / folder).rglob("*.py"))
        for line in re.findall(
            r"^.*\blog\.(?:debug|info|warning|error|critical|exception|log)\((?!\s*\"[a-z_]+\").*$",
            path.read_text(),
            re.MULTILINE,
        )
    ]

    assert odd == [
        "service/runner/worklog.py: log.log(level, event, reason=outcome.reason)",
        "service/store/health.py: log.log(",
        "workers/process.py: log.error(event, exc_info=error)",
    ]
