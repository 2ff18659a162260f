"""`haulier top`: the overview, live on a terminal, once elsewhere."""

import io
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from service.cli.api import Api
from service.cli.arguments import CLIENT, AsJson
from service.cli.screen import WIDE, Screen, local, output
from service.cli.session import connected
from service.cli.top.asking import Asking
from service.cli.top.documents import Overview
from service.cli.top.keys import Pressed, pressed_keys
from service.cli.top.shown import show_overview

app = typer.Typer()

LOOK = 0.2
"""Seconds after which keys, answers and the terminal's size are looked at again."""


@app.command(rich_help_panel=CLIENT)
def top(
    once: Annotated[bool, typer.Option("--once", help="Print the overview once, and end.")] = False,
    every: Annotated[
        float, typer.Option(min=0.5, max=3600, metavar="SECONDS", help="How often to look.")
    ] = 2.0,
    json: AsJson = False,
) -> None:
    """Show what needs a person, and what is under way, live (needs the admin token).

    Press q to end it. Where the output is no terminal, it prints the overview once.
    """
    with connected() as api:
        document = api.overview()
        screen = output()
        if json:
            screen.line(document.line)
        elif once or not screen.is_terminal:
            show_overview(screen, document.value)
        else:
            _live(screen, api, document.value, every)


def _live(screen: Screen, api: Api, first: Overview, every: float) -> None:
    """Draw until somebody presses q. Raises HaulierError if the API refuses to answer."""
    with (
        pressed_keys() as pressed,
        Asking(api, first, every) as asking,
        Live(console=screen.console, screen=True, auto_refresh=False) as live,
    ):
        _draw(screen, live, api, asking, pressed)
    if asking.refused is not None:
        raise asking.refused


def _draw(screen: Screen, live: Live, api: Api, asking: Asking, pressed: Pressed) -> None:
    shown: object = None
    while asking.refused is None:
        now = (asking.seen, asking.away, screen.console.size)
        if now != shown:
            live.update(drawn(screen, api.place.url, asking.seen, asking.away), refresh=True)
            shown = now
        if "q" in pressed(LOOK).lower():
            return


def drawn(screen: Screen, url: str, seen: Overview, away: str | None) -> Text:
    """Return the overview as it fits onto the terminal; what does not fit is counted."""
    width, height = screen.console.size
    sheet = _Sheet(width)
    title = f"Haulier {seen.version} at {url}, {local(seen.at)}; q ends this"
    sheet.fields([("", title)])
    if away is not None:
        sheet.fields([("AWAY", f"{away}. Below is what was last seen.")])
    sheet.line("")
    show_overview(sheet, seen)
    lines = sheet.text.splitlines()
    if len(lines) > height:
        left = len(lines) - height + 1
        lines = [*lines[: height - 1], f"{left} more lines: make the terminal higher"]
    return Text("\n").join(Text.from_ansi(line) for line in lines)


class _Sheet(Screen):
    """A screen of some width that is written onto another."""

    def __init__(self, width: int) -> None:
        self._lines = io.StringIO()
        super().__init__(self._lines)
        self.is_terminal = True
        self.console = self._console(width)
        self._sheet = self._console(WIDE)

    @property
    def text(self) -> str:
        return self._lines.getvalue()
