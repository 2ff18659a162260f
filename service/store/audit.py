"""The audit log: a line for everything that an operator changes, in the same transaction."""

import os
import pwd
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any
from urllib.parse import quote

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from service.rules.prices import written
from service.store.engine import Database
from service.store.models import Audit

ADMIN = "admin"
"""The actor of the admin token."""


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who does something, and from where: the columns of `Audit`."""

    name: str
    credential: str | None = None
    origin: str | None = None
    request_id: str | None = None


@cache
def local() -> Actor:
    """Return the actor of a command on this machine: whoever runs this process."""
    user = str(os.getuid())
    with suppress(KeyError):  # a container's user need not have a name
        user = pwd.getpwuid(os.getuid()).pw_name
    return Actor(name=f"os:{user}", origin=socket.gethostname())


def path(*parts: object) -> str:
    """Return the name of an object: its path in the API, below /v1."""
    return "/".join(quote(str(part), safe="") for part in parts)


def record(
    session: Session,
    by: Actor | None,
    verb: str,
    object: str,  # noqa: A002  the word of the log
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Add a line. `before` and `after` hold what changed, and never a secret or its digest.

    Without an actor it was done on this machine, by whoever runs this process.
    """
    actor = by or local()
    session.add(
        Audit(
            actor=actor.name,
            credential=actor.credential,
            origin=actor.origin if by else func.concat(func.current_user(), "@", actor.origin),
            request_id=actor.request_id,
            verb=verb,
            object=object,
            before=_as_json(before),
            after=_as_json(after),
        )
    )


def _as_json(fields: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Amounts of money are texts in JSON."""
    if fields is None:
        return None
    return {
        name: written(value) if isinstance(value, Decimal) else value
        for name, value in fields.items()
    }


def lines(
    db: Database,
    *,
    actor: str | None = None,
    verb: str | None = None,
    object: str | None = None,  # noqa: A002
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int,
) -> list[Audit]:
    """Return lines, newest first; `before` is the id of the last one of the page before.

    `object` also finds the lines of what belongs to it: those of a producer's tokens.
    """
    query = select(Audit).order_by(Audit.id.desc()).limit(limit)
    if actor is not None:
        query = query.where(Audit.actor == actor)
    if verb is not None:
        query = query.where(Audit.verb == verb)
    if object is not None:
        below = Audit.object.startswith(f"{object}/", autoescape=True)
        query = query.where(or_(Audit.object == object, below))
    if since is not None:
        query = query.where(Audit.at >= since)
    if until is not None:
        query = query.where(Audit.at < until)
    if before is not None:
        query = query.where(Audit.id < before)
    with db.begin() as session:
        return list(session.scalars(query))
