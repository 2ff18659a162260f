"""Producers: who they are, by their tokens, and what they may use."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.rules.credentials import DEFAULT_SCOPES, NewCredential, Scope, new_credential
from service.rules.errors import BadInput, Conflict, Problem
from service.rules.signatures import new_secret
from service.store.audit import Actor, path, record
from service.store.engine import Database
from service.store.models import Credential, File, Job, Producer

SECRETS = 2
"""Signing secrets of a producer that are valid together: the newest, and the one before it."""

_USED = timedelta(minutes=1)
"""The precision of `last_used_at`: a write at every call would cost too much."""


DEFAULT = "default"
"""The producer of whatever names none."""

_PATIENCE = "2s"
_COUNTED = 1_000


@dataclass(frozen=True)
class Holder:
    """A token that is valid now, and the producer it stands for."""

    token: Credential
    producer: Producer
    long_unused: bool
    """Whether nobody has noted for a while that it is used."""


def holder(db: Database, token_id: str) -> Holder | None:
    """The valid token with this id, of a producer that is not disabled.

    Whether its digest is right is for the caller to see.
    """
    with db.begin() as session:
        found = session.execute(_HOLDER, {"token": token_id}).one_or_none()
        return None if found is None else Holder(*found)


_LONG_UNUSED = func.coalesce(Credential.last_used_at < func.now() - _USED, True)
_HOLDER = (
    select(Credential, Producer, _LONG_UNUSED)
    .join(Producer, Producer.name == Credential.producer)
    .where(Credential.id == bindparam("token"), Credential.revoked_at.is_(None))
    .where(func.coalesce(Credential.expires_at > func.now(), True))
    .where(Producer.disabled_at.is_(None))
)


def used_last(db: Database, limit: int) -> dict[bytes, str]:
    """Whose the tokens are that were used last, by their digests."""
    query = (
        select(Credential.digest, Credential.producer)
        .where(Credential.revoked_at.is_(None))
        .order_by(Credential.last_used_at.desc().nulls_last())
        .limit(limit)
    )
    with db.begin() as session:
        return {bytes(digest): producer for digest, producer in session.execute(query)}


def note_use(db: Database, token_id: str) -> None:
    """Remember that a token is in use."""
    with db.begin() as session:
        session.execute(
            update(Credential)
            .where(Credential.id == token_id, _LONG_UNUSED)
            .values(last_used_at=func.now())
        )


def add_producer(
    db: Database, name: str, by: Actor | None = None, /, **fields: Any
) -> NewCredential:
    """A new producer with its first token. Raises Conflict if the name is taken."""
    with db.begin() as session:
        added = session.scalar(
            insert(Producer)
            .values(name=name, **fields)
            .on_conflict_do_nothing()
            .returning(Producer.name)
        )
        if added is None:
            raise Conflict(f"there is a producer {name!r} already")
        token = make_credential(session, name, DEFAULT_SCOPES)
        record(session, by, "add", path("producers", name), after={**fields, "token": token.id})
        return token


def producers(db: Database, *, after: str = "", limit: int) -> list[Producer]:
    """Producers by name, from behind `after`."""
    query = select(Producer).where(Producer.name > after).order_by(Producer.name).limit(limit)
    with db.begin() as session:
        return list(session.scalars(query))


def producer(db: Database, name: str) -> Producer | None:
    with db.begin() as session:
        return session.get(Producer, name)


def producers_named(db: Database, names: Collection[str]) -> dict[str, Producer]:
    """Those of these producers that are there."""
    with db.begin() as session:
        rows = session.scalars(select(Producer).where(Producer.name.in_(names)))
        return {row.name: row for row in rows}


def set_producer(
    db: Database, name: str, fields: dict[str, Any], *, by: Actor | None = None
) -> Producer | None:
    """Change these fields of a producer; None if it does not exist.

    Raises BadInput if no priority would be left to it.
    """
    with db.begin() as session:
        row = session.get(Producer, name, with_for_update={"key_share": True})
        if row is None:
            return None
        before = {field: getattr(row, field) for field in fields}
        changed = {field for field, value in fields.items() if value != before[field]}
        for field in changed:
            setattr(row, field, fields[field])
        if row.lowest_priority > row.highest_priority:
            raise BadInput([Problem("lowest_priority lies above highest_priority")])
        if changed:
            record(
                session,
                by,
                "change",
                path("producers", name),
                before={field: before[field] for field in sorted(changed)},
                after={field: fields[field] for field in sorted(changed)},
            )
        return row


def disable(db: Database, name: str, *, by: Actor | None = None) -> Producer | None:
    """Make a producer submit nothing, and none of its credentials valid. None if there is none."""
    with db.begin() as session:
        row = session.get(Producer, name, with_for_update={"key_share": True})
        if row is not None and row.disabled_at is None:
            row.disabled_at = func.now()
            record(session, by, "disable", path("producers", name))
            session.flush()
            session.refresh(row)
        return row


def enable(db: Database, name: str, *, by: Actor | None = None) -> Producer | None:
    """Undo `disable`. None if there is no such producer."""
    with db.begin() as session:
        row = session.get(Producer, name, with_for_update={"key_share": True})
        if row is not None and row.disabled_at is not None:
            record(session, by, "enable", path("producers", name))
            row.disabled_at = None
        return row


def remove_producer(db: Database, name: str, *, by: Actor | None = None) -> bool:
    """Delete a producer and its tokens. False if there is none.

    Raises Conflict, which says what is there, if it has jobs or files.
    """
    if name == DEFAULT:
        raise Conflict("the producer 'default' owns whatever names no producer; disable it instead")
    with db.begin() as session:
        # A transaction of the producer's own (`haulier.enqueue`) may hold the row for long.
        session.execute(text(f"SET LOCAL lock_timeout = '{_PATIENCE}'"))
        row = session.get(Producer, name, with_for_update=True)
        if row is None:
            return False
        jobs = _counted(session, select(Job.id).where(Job.producer == name), "jobs")
        whole = (File.producer == name, File.blob.is_not(None), File.deleted_at.is_(None))
        files = _counted(session, select(File.id).where(*whole), "files")
        if held := " and ".join(filter(None, (jobs, files))):
            raise Conflict(
                f"the producer has {held}; jobs go when they are pruned (HAULIER_RETENTION_DAYS),"
                " files when they are deleted or expire"
            )
        # Files that were deleted or never sent; their blobs are swept.
        session.execute(delete(File).where(File.producer == name))
        session.execute(delete(Credential).where(Credential.producer == name))
        session.delete(row)
        record(session, by, "remove", path("producers", name))
        return True


def _counted(session: Session, query: Select[Any], what: str) -> str:
    """The number of rows in words, without counting millions; empty for none."""
    some = query.limit(_COUNTED).subquery()
    number = session.scalars(select(func.count()).select_from(some)).one()
    if not number:
        return ""
    more = "at least " if number == _COUNTED else ""
    return f"{more}{number:,} {what.removesuffix('s') if number == 1 else what}"


def add_secret(db: Database, name: str, *, by: Actor | None = None) -> str | None:
    """A new signing secret; the one before it stays valid. None if there is no such producer."""
    with db.begin() as session:
        row = session.get(Producer, name, with_for_update={"key_share": True})
        if row is None:
            return None
        secret = new_secret()
        before = {"signing_secrets": len(row.signing_secrets)}
        row.signing_secrets = [secret, *row.signing_secrets][:SECRETS]
        after = {"signing_secrets": len(row.signing_secrets)}
        record(session, by, "new-secret", path("producers", name), before=before, after=after)
        return secret


def add_credential(
    db: Database,
    producer: str,
    *,
    scopes: Sequence[Scope] = DEFAULT_SCOPES,
    label: str = "",
    expires_at: datetime | None = None,
    by: Actor | None = None,
) -> NewCredential:
    """One more token of a producer that is there."""
    with db.begin() as session:
        token = make_credential(session, producer, scopes, label=label, expires_at=expires_at)
        after = {
            "scopes": [str(scope) for scope in scopes],
            "label": label,
            "expires_at": expires_at.isoformat() if expires_at is not None else None,
        }
        record(session, by, "add", path("producers", producer, "tokens", token.id), after=after)
        return token


def make_credential(
    session: Session,
    producer: str,
    scopes: Sequence[Scope],
    *,
    label: str = "",
    expires_at: datetime | None = None,
) -> NewCredential:
    """Add a credential within a transaction. See `add_credential`."""
    token = new_credential()
    session.add(
        Credential(
            id=token.id,
            producer=producer,
            label=label,
            digest=token.digest,
            scopes=[str(scope) for scope in scopes],
            expires_at=expires_at,
        )
    )
    return token
