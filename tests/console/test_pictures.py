"""`make console-pictures`: pictures of every page, to be looked at, in build/console."""

from pathlib import Path

import pytest

from tests.console.conftest import Looker
from tests.console.pages import NAMES, pages
from tests.console.world import World

KINDS = (("wide", "light", 1400), ("narrow", "light", 390), ("dark", "dark", 1400))
FOLDER = Path(__file__).parents[2] / "build" / "console"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_draw(admin: Looker, world: World, name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    admin.open(pages(world)[name])
    for kind, scheme, width in (
        ("wide", "light", 1400),
        ("narrow", "light", 390),
        ("dark", "dark", 1400),
    ):
        admin.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        admin.page.set_viewport_size({"width": width, "height": 850})
        admin.page.screenshot(path=FOLDER / f"{name}-{kind}.png", full_page=width < 1000)
