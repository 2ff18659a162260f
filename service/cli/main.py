"""`haulier`: its commands, gathered from their folders."""

import sys
from typing import Annotated

import typer

from config import VERSION
from config.settings import SettingsError
from service.cli.arguments import CLIENT
from service.cli.examples import with_examples
from service.cli.operate import accounts, audit, deliveries, doctor, processes
from service.cli.operate import jobs as manage
from service.cli.operate import lanes as lane_commands
from service.cli.operate.producers import producer_app, token_app
from service.cli.run import commands
from service.cli.show import failures, jobs, logs, results, usage, watch
from service.cli.submit import estimate, submit
from service.cli.tables import UnknownColumn
from service.cli.top import command as top

app = typer.Typer(
    name="haulier",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
# Their commands become commands of `haulier` itself, in this order.
COMMANDS = (
    *(commands, doctor, submit, estimate),
    *(jobs, watch, logs, results, failures, usage),
    *(manage, top, deliveries, accounts, lane_commands, processes, audit),
)
for group in COMMANDS:
    app.add_typer(group.app)
app.add_typer(producer_app, name="producer", rich_help_panel=CLIENT)
for verb_app in lane_commands.VERBS:
    app.add_typer(verb_app, rich_help_panel=CLIENT)
app.add_typer(token_app, name="token", rich_help_panel=CLIENT)


def _tell_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"haulier {VERSION}\n")
        raise typer.Exit


@app.callback()
def haulier(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Print the version, and end."
        ),
    ] = False,
) -> None:
    """A durable job queue for batch inference on Together AI."""


def main() -> None:
    """The console script. A bad setting ends it with the variable's name, not a traceback."""
    try:
        with_examples(app)()
    except UnknownColumn as error:
        sys.stderr.write(f"haulier: --columns: {error}\n")
        raise SystemExit(2) from None
    except SettingsError as error:
        sys.stderr.write(f"haulier: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
