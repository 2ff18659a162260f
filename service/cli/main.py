"""`haulier`: its commands, gathered from the rooms that they are in."""

import sys

import typer

from config.settings import SettingsError
from service.cli import asking, running, submitting
from service.cli.arguments import CLIENT
from service.cli.producers import producer_app, token_app

app = typer.Typer(
    name="haulier",
    help="A durable job queue for batch inference on Together AI.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# Their commands become commands of `haulier` itself, in this order.
for room in (running, submitting, asking):
    app.add_typer(room.app)
app.add_typer(producer_app, name="producer", rich_help_panel=CLIENT)
app.add_typer(token_app, name="token", rich_help_panel=CLIENT)


def main() -> None:
    """The console script. A bad setting ends it with the variable's name, not a traceback."""
    try:
        app()
    except SettingsError as error:
        sys.stderr.write(f"haulier: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
