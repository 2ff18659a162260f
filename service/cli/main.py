"""`haulier`: its commands, gathered from the rooms that they are in."""

import sys

import typer

from config.settings import SettingsError
from service.cli import asking, running, submitting

app = typer.Typer(
    name="haulier",
    help="A durable job queue for batch inference on Together AI.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
# Their commands become commands of `haulier` itself, in this order.
for room in (running, submitting, asking):
    app.add_typer(room.app)


def main() -> None:
    """The console script. A bad setting ends it with the variable's name, not a traceback."""
    try:
        app()
    except SettingsError as error:
        sys.stderr.write(f"haulier: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
