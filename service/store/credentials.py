"""The tokens of a producer: listed, replaced, and ended."""

from datetime import datetime, timedelta

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from service.rules.credentials import NewCredential, Scope
from service.rules.errors import Conflict
from service.store.audit import Actor, path, record
from service.store.engine import Database
from service.store.models import Credential
from service.store.producers import make_credential


def tokens(
    db: Database, producer: str, *, after: tuple[datetime, str] | None, limit: int
) -> list[Credential]:
    """A producer's tokens, oldest first, ended ones too. `after`: (created_at, id)."""
    order = (Credential.created_at, Credential.id)
    query = select(Credential).where(Credential.producer == producer).order_by(*order).limit(limit)
    if after is not None:
        query = query.where(tuple_(*order) > after)
    with db.begin() as session:
        return list(session.scalars(query))


def token(db: Database, token_id: str) -> Credential | None:
    with db.begin() as session:
        return session.get(Credential, token_id)


def rotate_token(
    db: Database,
    producer: str,
    token_id: str,
    *,
    grace: timedelta,
    expires_at: datetime | None = None,
    by: Actor | None = None,
) -> NewCredential | None:
    """A new token with the scopes and the label of another, which ends after `grace`.

    Unless `expires_at` says when, the new one is valid for as long as the old one was made for.
    None if the producer has no such token; raises Conflict if that has ended.
    """
    with db.begin() as session:
        old = _locked(session, producer, token_id)
        if old is None:
            return None
        now = session.scalars(select(func.now())).one()
        if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
            raise Conflict("the token has ended: add a new one")
        if expires_at is None and old.expires_at is not None:
            expires_at = now + (old.expires_at - old.created_at)
        before = _ends(old)
        if not grace:
            old.revoked_at = now
        elif old.expires_at is None or old.expires_at > now + grace:
            old.expires_at = now + grace
        scopes = [Scope(scope) for scope in old.scopes]
        new = make_credential(session, producer, scopes, label=old.label, expires_at=expires_at)
        after = {**_ends(old), "replaced_by": new.id}
        record(session, by, "rotate", _name(old), before=before, after=after)
        return new


def revoke_token(db: Database, producer: str, token_id: str, *, by: Actor | None = None) -> bool:
    """End a token now; again does nothing. False if the producer has no such token."""
    with db.begin() as session:
        row = _locked(session, producer, token_id)
        if row is not None and row.revoked_at is None:
            before = _ends(row)
            row.revoked_at = session.scalars(select(func.now())).one()
            record(session, by, "revoke", _name(row), before=before, after=_ends(row))
        return row is not None


def _name(token: Credential) -> str:
    return path("producers", token.producer, "tokens", token.id)


def _ends(token: Credential) -> dict[str, str | None]:
    """When a token ends, for the audit log."""
    ends = {"expires_at": token.expires_at, "revoked_at": token.revoked_at}
    return {name: at.isoformat() if at is not None else None for name, at in ends.items()}


def _locked(session: Session, producer: str, token_id: str) -> Credential | None:
    return session.scalars(
        select(Credential)
        .where(Credential.id == token_id, Credential.producer == producer)
        .with_for_update()
    ).one_or_none()
