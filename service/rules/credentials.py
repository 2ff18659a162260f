"""Bearer tokens: how one is made, and what of it is kept.

`haulier_<id>_<secret>`. The id finds the row, the secret has 256 random bits, so that a plain
SHA-256 of the token is as good as a slow hash: there is nothing to guess.
"""

import hmac
import re
import secrets
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256


class Scope(StrEnum):
    """The uses that a credential may have."""

    SUBMIT = "submit"
    """New jobs, and running failed requests again: what costs money."""
    READ = "read"
    CANCEL = "cancel"
    ADMIN = "admin"
    """Everything, with every producer's jobs."""


DEFAULT_SCOPES = (Scope.SUBMIT, Scope.READ, Scope.CANCEL)

_FORM = re.compile(r"haulier_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class NewCredential:
    """`text` is shown once and kept nowhere."""

    id: str
    text: str
    digest: bytes


def new_credential() -> NewCredential:
    token_id = secrets.token_hex(8)
    text = f"haulier_{token_id}_{secrets.token_urlsafe(32)}"
    return NewCredential(token_id, text, digest(text))


def id_of(text: str) -> str | None:
    """The id in a token, or None if it cannot be one of ours."""
    found = _FORM.fullmatch(text)
    return found[1] if found else None


def is_id(text: str) -> bool:
    """Whether this can be the id of a token."""
    return re.fullmatch(r"[0-9a-f]{16}", text) is not None


def digest(text: str) -> bytes:
    # Of one length whatever was sent, so that a comparison tells nothing about the length.
    return sha256(text.encode(errors="surrogateescape")).digest()


def same(one: bytes, other: bytes) -> bool:
    """Whether two digests are equal, in constant time."""
    return hmac.compare_digest(one, other)
