"""`haulier doctor`: whether everything that Haulier stands on is there, and what to do if not."""

from collections.abc import Iterator

import msgspec
import typer
from pydantic import SecretStr

from config import VERSION
from config.settings import Settings, settings
from service.cli import checks
from service.cli.checks import Finding, Level
from service.cli.place import variables_in
from service.cli.screen import clean, output


def doctor(*, as_json: bool) -> None:
    """The command. Exits with 1 where there is a problem; warnings are none."""
    screen = output()
    if not as_json:
        screen.line(f"Haulier {VERSION}")
    troubled = False
    for finding in _findings(settings()):
        troubled |= finding.level is Level.PROBLEM
        if as_json:
            screen.line(msgspec.json.encode(finding).decode())
            continue
        screen.line(f"{finding.level:8} {finding.check}: {clean(finding.detail)}")
        if finding.todo:
            screen.line(f"{'':8} → {finding.todo}")
    raise typer.Exit(1 if troubled else 0)


def _findings(config: Settings) -> Iterator[Finding]:
    left = variables_in(config.home / "env")
    # With or without the variables that a shell beside `haulier up` is given.
    local = "DATABASE_URL" in left and config.database_url in {None, left["DATABASE_URL"]}
    if local:
        config = _with_what_up_left(config, left)
    yield from checks.database(config)
    yield from checks.broker(config)
    yield from checks.blobs(config)
    yield from checks.scratch(config)
    if local and config.together_api_key is None and not config.accounts:
        # It may run against its simulator; what it was started with is known to it alone.
        yield Finding("accounts", Level.SKIPPED, "`haulier up` has its keys, and none is set here")
    else:
        yield from checks.accounts(config)
    yield from checks.admin_token(config)


def _with_what_up_left(config: Settings, left: dict[str, str]) -> Settings:
    token = left.get("HAULIER_TOKEN")
    return config.model_copy(
        update={
            "database_url": left["DATABASE_URL"],
            "redis_url": config.redis_url or left.get("REDIS_URL"),
            "admin_token": config.admin_token or (SecretStr(token) if token else None),
        }
    )
