"""Every claim of docs/threat-model.md names tests that exist, or says that none shows it."""

import re

from tests.docs.reference import ROOT

PAGE = ROOT / "docs" / "threat-model.md"
NAMED = re.compile(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)")


def missing(page: str) -> list[str]:
    """The tests that a page names and that are not where it says."""
    return [
        f"{path}: {name}"
        for name, path in NAMED.findall(page)
        if not (ROOT / path).exists()
        or not re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    ]


def unshown(page: str) -> list[str]:
    """What attackers are said to be unable to do, with neither a test nor the words "Not shown"."""
    lists = re.findall(r"^Cannot:\n\n((?:- .*\n)+)", page, re.MULTILINE)
    claims = [claim for found in lists for claim in found.splitlines()]
    return [claim for claim in claims if not NAMED.search(claim) and "Not shown" not in claim]


def test_every_test_that_the_page_names_exists() -> None:
    page = PAGE.read_text()

    assert len(NAMED.findall(page)) == len(re.findall(r"`test_", page)) > 50
    assert missing(page) == []


def test_every_claim_has_a_test_or_says_that_it_has_none() -> None:
    page = PAGE.read_text()

    assert page.count("\nCannot:\n") == 11
    assert unshown(page) == []


def test_a_test_that_was_renamed_and_a_claim_without_one_are_found() -> None:
    here = "../tests/docs/test_threat_model.py"
    page = (
        "Cannot:\n\n"
        f"- fly: [`test_every_test_that_the_page_names_exists`]({here})\n"
        f"- swim: [`test_every_test`]({here}), [`test_x`](../tests/docs/test_nowhere.py)\n"
        "- walk\n"
        "- run. Not shown.\n"
    )

    assert missing(page) == [
        "tests/docs/test_threat_model.py: test_every_test",
        "tests/docs/test_nowhere.py: test_x",
    ]
    assert unshown(page) == ["- walk"]
