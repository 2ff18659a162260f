"""The checks of `haulier doctor`. Each says what it found, and what to do about it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
from pydantic import SecretStr

from config import VERSION
from config.redaction import SIMULATED, learn, redact
from config.secret_files import without_secrets
from config.settings import Settings
from service.cli.place import variables_in
from service.cli.up.home import SIMULATOR_URL
from service.payloads.blobs import STORAGE_ERRORS, Blobs, folder_of
from service.rules.errors import AccountBlocked, RateLimited, Refused, Unreachable
from service.store import engine, heartbeats
from service.store.engine import (
    DATABASE_ERRORS,
    FORBIDDEN,
    Database,
    first_line,
    server_version,
    sqlstate,
)
from service.store.grants import owned_by
from service.store.revisions import is_migrated
from service.together.client import Together
from service.together.transport import open_pool

OLDEST_POSTGRES = 15
FREE = 2_000_000_000
"""Bytes of scratch space that a few downloads and sorted hashes fit into."""
AWAY = timedelta(seconds=15)
"""Heartbeats come every 5 seconds."""
SKEW, MUCH_SKEW = timedelta(seconds=5), timedelta(minutes=5)
VARIED = 8
"""A random token has more different characters than these."""


ON_THE_DATABASE = ("clock", "migrations", "processes")


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    SKIPPED = "skipped"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. `todo` is there unless it is fine."""

    check: str
    level: Level
    detail: str
    todo: str | None = None


@contextmanager
def _connected(url: str) -> Iterator[Database]:
    connections = engine.create(url, statement_timeout=timedelta(seconds=5))
    try:
        yield engine.database(connections)
    finally:
        connections.dispose()


def database(settings: Settings) -> Iterator[Finding]:
    """Postgres, its schema, its clock, and the processes that write to it."""
    if settings.database_url is None:
        todo = "set DATABASE_URL, or run this beside the home of `haulier up`"
        yield Finding("database", Level.PROBLEM, "DATABASE_URL is not set", todo)
        yield from _skipped("it needs the database", *ON_THE_DATABASE)
        return
    done = set()
    try:
        with _connected(settings.database_url) as db:
            for finding in _database(db):
                done.add(finding.check)
                yield finding
    except (*DATABASE_ERRORS, ValueError) as error:
        todo = "start Postgres, or correct DATABASE_URL"
        if sqlstate(error) == FORBIDDEN:
            todo = "as the owner, run `haulier migrate --runtime-role` with this role's name"
        yield Finding("database", Level.PROBLEM, first_line(error), todo)
        left = [check for check in ON_THE_DATABASE if check not in done]
        yield from _skipped("it needs the database", *left)


def _database(db: Database) -> Iterator[Finding]:
    yield _postgres(server_version(db))
    yield _clock(db)
    if is_migrated(db):
        yield Finding("migrations", Level.OK, "the schema is that of this version, or newer")
        yield _role(*owned_by(db))
        yield from _processes(db)
    else:
        todo = "run `haulier migrate`"
        yield Finding("migrations", Level.PROBLEM, "the schema is missing or old", todo)
        yield from _skipped("it needs the schema", "processes")


def _postgres(version: int) -> Finding:
    major, minor = divmod(version, 10_000)
    detail = f"PostgreSQL {major}.{minor}"
    if major < OLDEST_POSTGRES:
        todo = f"use PostgreSQL {OLDEST_POSTGRES} or later"
        return Finding("database", Level.PROBLEM, detail, todo)
    return Finding("database", Level.OK, detail)


def _role(name: str, owns: bool) -> Finding:
    if not owns:
        return Finding("database role", Level.OK, f"{name}, which owns nothing")
    detail = f"{name} may do anything to Haulier's tables, the audit log included"
    todo = "let the processes use a role of their own: `haulier migrate --runtime-role ROLE`"
    return Finding("database role", Level.WARNING, detail, todo)


def _clock(db: Database) -> Finding:
    before = datetime.now(UTC)
    there = engine.clock(db)
    after = datetime.now(UTC)
    skew = max(before - there, there - after, timedelta(0))
    detail = f"{skew.total_seconds():.1f} s between this machine and the database"
    if skew <= SKEW:
        return Finding("clock", Level.OK, detail)
    level = Level.PROBLEM if skew > MUCH_SKEW else Level.WARNING
    return Finding("clock", level, detail, "synchronise the clocks of both (NTP)")


def _processes(db: Database) -> Iterator[Finding]:
    now = engine.clock(db)
    rows = [row for row in heartbeats.heartbeats(db) if now - row.seen_at < AWAY]
    for kind in ("worker", "scheduler", "inbox", "notifier"):
        found = [row for row in rows if row.kind == kind]
        others = sorted({row.version for row in found} - {VERSION})
        drains = [row for row in found if row.draining_since is not None]
        if found and len(drains) == len(found):
            todo = f"start another {kind}, or let one go on: `haulier resume process ID`"
            yield Finding(kind, Level.WARNING, f"all {len(found)} are being drained", todo)
        elif not found:
            # Who submits over HTTP alone needs no inbox.
            level = Level.WARNING if kind == "inbox" else Level.PROBLEM
            yield Finding(kind, level, "none is alive", f"start one: `haulier {kind}`")
        elif others:
            detail = f"{len(found)} alive, of version {', '.join(others)}; this is {VERSION}"
            yield Finding(kind, Level.WARNING, detail, "bring all processes to one version")
        else:
            yield Finding(kind, Level.OK, f"{len(found)} alive, version {VERSION}")


def broker(settings: Settings) -> Iterator[Finding]:
    """Redis or Valkey; looked at by a process of workers, since the service never speaks to it."""
    if settings.redis_url is None:
        todo = "set REDIS_URL, or run this beside the home of `haulier up`"
        yield Finding("broker", Level.PROBLEM, "REDIS_URL is not set", todo)
        return
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "workers.examine"],
            env={**without_secrets(os.environ), "REDIS_URL": settings.redis_url},
            capture_output=True,
            timeout=30,
            check=True,
        )
        found = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError):
        found = {"error": "the check of the broker did not come to an end"}
    yield _broker(found)
    if found.get("unread") is not None:
        yield _unread(found["unread"])
    else:
        yield from _skipped("Redis does not let this user look", "unread lists")


def _unread(unread: dict[str, int]) -> Finding:
    if not unread:
        return Finding("unread lists", Level.OK, "every list like haulier.submit is read")
    lists = ", ".join(f"{name!r} ({held:,})" for name, held in sorted(unread.items())[:10])
    more = f" and {len(unread) - 10:,} more" if len(unread) > 10 else ""
    detail = f"{sum(unread.values()):,} messages in lists that nobody reads: {lists}{more}"
    todo = "correct the settings of their producer, and move them: docs/producers.md"
    return Finding("unread lists", Level.WARNING, detail, todo)


def _broker(found: dict[str, Any]) -> Finding:
    if "error" in found:
        todo = "start Redis or Valkey, or correct REDIS_URL"
        return Finding("broker", Level.PROBLEM, redact(found["error"]), todo)
    detail = f"{found['name']} {found['version']}, maxmemory-policy {found['maxmemory_policy']}"
    if found["role"] not in {"master", None}:
        todo = "let REDIS_URL name the primary"
        return Finding("broker", Level.PROBLEM, f"{detail}, a replica", todo)
    if found["maxmemory_policy"] != "noeviction":
        todo = "set maxmemory-policy to noeviction: else submissions are lost when it is full"
        return Finding("broker", Level.PROBLEM, detail, todo)
    return Finding("broker", Level.OK, detail)


def blobs(settings: Settings) -> Iterator[Finding]:
    """Blob storage: a probe is written, read and deleted."""
    name, content = f"probes/{uuid4()}", uuid4().bytes
    todo = "correct HAULIER_BLOB_URL, or give this user the right to write, read and delete there"
    folder = folder_of(settings.blobs)
    if folder is not None and not folder.is_dir():
        yield _not_there("blobs", folder, todo)
        return
    try:
        storage = Blobs(settings.blobs, create=False)
        storage.put(name, content)
        same = storage.get(name) == content
        storage.delete([name])
    except (OSError, ValueError, *STORAGE_ERRORS) as error:
        yield Finding("blobs", Level.PROBLEM, f"{settings.blobs}: {first_line(error)}", todo)
        return
    if not same:
        yield Finding("blobs", Level.PROBLEM, f"{settings.blobs} gives back other bytes", todo)
        return
    yield Finding("blobs", Level.OK, f"{settings.blobs} can be written, read and deleted")


def _not_there(check: str, folder: Path, todo: str) -> Finding:
    """Say that a folder is missing. It is left so: what uses it makes it, if it can."""
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        words = f"there is no {folder} yet; the first process that uses it makes it"
        return Finding(check, Level.WARNING, words, "start the processes, then look again")
    words = f"there is no {folder}, and this user cannot make it in {above}"
    return Finding(check, Level.PROBLEM, words, todo)


def scratch(settings: Settings) -> Iterator[Finding]:
    """Local space for what is on its way."""
    place = settings.scratch or Path(tempfile.gettempdir())
    todo = "let HAULIER_SCRATCH name a directory with more space, on a disk of this machine"
    if not place.is_dir():
        yield _not_there("scratch", place, todo)
        return
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(1 << 16))
        free = shutil.disk_usage(place).free
    except OSError as error:
        yield Finding("scratch", Level.PROBLEM, f"{place}: {first_line(error)}", todo)
        return
    level = Level.OK if free >= FREE else Level.WARNING
    detail = f"{place} has {free / 1e9:.1f} GB free"
    yield Finding("scratch", level, detail, None if level is Level.OK else todo)


def accounts(settings: Settings) -> Iterator[Finding]:
    """Each account's key, by asking Together for a file that does not exist."""
    names = [name for name in sorted(settings.account_names) if settings.account(name)]
    if not names:
        todo = "set TOGETHER_API_KEY (or HAULIER_ACCOUNTS), or run this where a worker runs"
        yield Finding("account default", Level.PROBLEM, "there is no key", todo)
    with open_pool(timedelta(seconds=10)) as pool:
        for name in names:
            account = settings.account(name)
            assert account is not None
            yield _account(name, Together(pool, account.base_url, account.key))


def simulated(url: str) -> Iterator[Finding]:
    """The simulator of `haulier up --simulate`, to which every account leads there."""
    with open_pool(timedelta(seconds=10)) as pool:
        found = _account("default", Together(pool, url, SIMULATED))
    if found.level is Level.OK:
        detail = f"all are simulated at {url}; nothing goes to Together"
        yield Finding("accounts", Level.OK, detail)
    else:
        todo = "look at simulator.log in the logs of `haulier up`, which starts it again"
        yield Finding("accounts", Level.PROBLEM, f"the simulator: {found.detail}", todo)


def _account(name: str, together: Together) -> Finding:
    check = f"account {name}"
    try:
        together.file(f"file-{uuid4()}")
    except AccountBlocked as error:
        todo = "renew the key or the credit of this account at Together"
        return Finding(check, Level.PROBLEM, first_line(error), todo)
    except RateLimited as error:
        return Finding(check, Level.WARNING, first_line(error), "try again later")
    except Unreachable as error:
        todo = "look at the network and TOGETHER_BASE_URL (or `base_url` in HAULIER_ACCOUNTS)"
        return Finding(check, Level.PROBLEM, first_line(error), todo)
    except Refused:
        pass  # that there is no such file is told to those alone whose key is good
    except ValueError:
        todo = "write the key as Together shows it"
        return Finding(check, Level.PROBLEM, "the key holds what no key has in it", todo)
    return Finding(check, Level.OK, "Together takes the key")


def admin_token(settings: Settings) -> Iterator[Finding]:
    """Whether the token that may do everything can be guessed."""
    if settings.admin_token is None:
        detail = "HAULIER_ADMIN_TOKEN is not set here; the API does not start without it"
        yield Finding("admin token", Level.WARNING, detail, "set it where the API runs")
        return
    token = settings.admin_token.get_secret_value().strip()
    if len(set(token)) < VARIED:
        todo = "make a random one: python -c 'import secrets; print(secrets.token_urlsafe(24))'"
        yield Finding("admin token", Level.WARNING, "it is simple", todo)
        return
    yield Finding("admin token", Level.OK, f"{len(token)} characters")


def queue(settings: Settings) -> Iterator[Finding]:
    """Whether whoever reaches the broker may submit as any producer."""
    if settings.queue_signed:
        yield Finding("queue", Level.OK, "submissions must be signed")
        return
    default = settings.queue_default_producer
    whose = f"those that name no producer are of {default!r}" if default else "each names one"
    if default == "default":
        whose += ", which may use everything unless an operator has bounded it"
    detail = f"unsigned submissions are taken: whoever can write to the broker may submit; {whose}"
    todo = (
        "set HAULIER_QUEUE_SIGNED=true, or give each producer an ACL in Redis and set"
        " HAULIER_QUEUE_DEFAULT_PRODUCER to a producer with bounds, or to nothing"
    )
    yield Finding("queue", Level.WARNING, detail, todo)


def _skipped(why: str, *checks: str) -> Iterator[Finding]:
    for check in checks:
        yield Finding(check, Level.SKIPPED, why)


def findings(config: Settings) -> Iterator[Finding]:
    """Run every check. Beside `haulier up`, check the servers that it started."""
    try:
        left = variables_in(config.home / "env")
    except PermissionError as error:
        todo = "set HAULIER_HOME to a directory of your own, or DATABASE_URL and REDIS_URL"
        yield Finding("home", Level.WARNING, str(error), todo)
        left = {}
    # With or without the variables that a shell beside `haulier up` is given.
    local = "DATABASE_URL" in left and config.database_url in {None, left["DATABASE_URL"]}
    if local:
        config = _with_what_up_left(config, left)
    learn(config)
    for finding in database(config):
        # The servers of `haulier up` are one person's own, who owns all of it.
        if not (local and finding.check == "database role"):
            yield finding
    yield from broker(config)
    yield from blobs(config)
    yield from scratch(config)
    if local and SIMULATOR_URL in left:
        yield from simulated(left[SIMULATOR_URL])
    elif local and config.together_api_key is None and not config.accounts:
        # What it was started with is known to it alone.
        yield Finding("accounts", Level.SKIPPED, "`haulier up` has its keys, and none is set here")
    else:
        yield from accounts(config)
    yield from admin_token(config)
    yield from queue(config)


def _with_what_up_left(config: Settings, left: dict[str, str]) -> Settings:
    token = left.get("HAULIER_TOKEN")
    return config.model_copy(
        update={
            "database_url": left["DATABASE_URL"],
            "redis_url": config.redis_url or left.get("REDIS_URL"),
            "blob_url": config.blob_url or left.get("HAULIER_BLOB_URL"),
            "admin_token": config.admin_token or (SecretStr(token) if token else None),
        }
    )
