"""Every page: on wide and narrow screens, in the light and in the dark, for everybody."""

from pathlib import Path

import pytest

from tests.console.conftest import Looker
from tests.console.pages import NAMES, pages
from tests.console.world import World

AXE = Path(__file__).parent / "axe" / "axe.min.js"
_RUN = """async () => (await axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"],
})).violations.map(
    v => `${v.id}: ${v.nodes.map(n => n.target + " " + n.failureSummary).join("; ")}`
)
"""
_OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def axe() -> str:
    return AXE.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_fits_every_screen_can_be_used_by_all_and_shows_text_as_text(
    admin: Looker, world: World, axe: str, name: str
) -> None:
    page = admin.page
    admin.open(pages(world)[name])
    page.evaluate(axe)
    assert page.locator(".evil").count() == 0
    for scheme, width in (("light", 1400), ("dark", 390), ("dark", 2560)):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(_OVERFLOW) <= 0, f"{name} is wider than {width} pixels"
        if width <= 1400:
            assert page.evaluate(_RUN) == [], f"{name}, {scheme}, {width} pixels"


def test_the_list_names_every_page(world: World) -> None:
    assert set(pages(world)) == set(NAMES)
