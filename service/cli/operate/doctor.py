"""`haulier doctor`: checks everything that Haulier needs, and says what to do."""

import msgspec
import typer

from config import VERSION
from config.settings import settings
from service.cli.arguments import AsJson
from service.cli.screen import clean, escaped, output

app = typer.Typer()


@app.command()
def doctor(json: AsJson = False) -> None:
    """Check everything that Haulier needs, and say what to do about problems.

    The exit status is 1 if there is a problem. A warning is no problem.
    """
    from service.cli.operate.checks import Level, findings

    screen = output()
    if not json:
        screen.line(f"Haulier {VERSION}")
    troubled = False
    for finding in findings(settings()):
        troubled |= finding.level is Level.PROBLEM
        if json:
            screen.line(escaped(msgspec.json.encode(finding).decode()))
            continue
        screen.line(f"{finding.level:8} {finding.check}: {clean(finding.detail)}")
        if finding.todo:
            screen.line(f"{'':8} → {finding.todo}")
    raise typer.Exit(1 if troubled else 0)
