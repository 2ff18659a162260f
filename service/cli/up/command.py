"""`haulier up`: everything on this machine, until Ctrl-C."""

import logging
import os
import sys
from pathlib import Path

import typer

from config.settings import Settings
from service.cli.run.supervisor import Supervisor
from service.cli.screen import printable
from service.cli.up.errors import StartError
from service.cli.up.home import LOGS, Home
from service.cli.up.parts import Instance, assemble, shell_variables


def up(settings: Settings, *, simulate: bool, port: int, batch_seconds: float | None = None) -> int:
    """Run all parts until SIGINT or SIGTERM. Gives the exit status; says what is wrong on stderr.

    `port` is the API's, 0 for any that is free; `batch_seconds` is passed on to the simulator.
    """
    if sys.stderr.isatty():
        # A person is told in words what begins; what dies is still logged.
        logging.getLogger("service.cli.run.supervisor").setLevel(logging.WARNING)
    try:
        _check(settings, simulate=simulate)
        home = Home(settings.home)
        home.make()
        with home.locked():
            _tell_first(home)
            instance, parts = assemble(
                settings, home, simulate=simulate, port=port, batch_seconds=batch_seconds
            )
            home.write_environment(shell_variables(instance))
            banner = _banner(instance, home, settings)
            Supervisor(parts, on_start=_tell, on_ready=lambda: typer.echo(banner)).run()
    except (StartError, OSError) as error:
        typer.echo(printable(f"haulier up: {error}"), err=True)
        return 1
    except KeyboardInterrupt:
        # Before the supervisor ran, while data was being prepared.
        return 130
    return 0


def _tell_first(home: Home) -> None:
    if not (home.directory / "postgres").exists():
        _say("This is the first start here: it prepares a database, which takes some seconds.")


def _tell(name: str) -> None:
    _say(_STEPS.get(name, f"Starting the {name} …"))


_STEPS = {
    "postgres": "Starting Postgres …",
    "valkey": "Starting Valkey …",
    "migrate": "Bringing the database to the newest schema …",
    "api": "Starting the API …",
}


def _say(words: str) -> None:
    """Tell a person how far it is. In somebody's log, the events of the supervisor do."""
    if sys.stderr.isatty():
        typer.echo(words, err=True)


def _check(settings: Settings, *, simulate: bool) -> None:
    if not simulate and settings.together_api_key is None and not settings.accounts:
        raise StartError(
            "no key for Together: set TOGETHER_API_KEY to run against Together, or run "
            "`haulier up --simulate` to try everything out with a simulator in its place"
        )


def _banner(instance: Instance, home: Home, settings: Settings) -> str:
    lines = ["", f"Haulier is up: {instance.url}"]
    if settings.console:
        lines += [f"Console: {instance.url}/console (log in with HAULIER_TOKEN of the file below)"]
    if instance.simulator_url:
        lines += [f"Together is simulated: {instance.simulator_url}"]
    lines += ["", "In another shell:", f"  . {_shown(home.environment_file)}"]
    if sys.stdout.isatty():
        # Elsewhere it would lie in somebody's log.
        lines += [
            "or",
            f"  export HAULIER_URL={instance.url} HAULIER_TOKEN={instance.token}",
        ]
    lines += [
        "",
        "The file also sets REDIS_URL, for queue producers, and DATABASE_URL.",
        f"Data: {_shown(home.directory)}   Logs: {_shown(home.directory / LOGS)}   Stop: Ctrl-C",
        "Another port: haulier up --port 9000",
        "",
    ]
    return "\n".join(lines)


def _shown(path: Path) -> str:
    """As short as it can be typed from here; with the `./` that a shell's dot command needs."""
    here = Path.cwd()
    return f".{os.sep}{path.relative_to(here)}" if path.is_relative_to(here) else str(path)
