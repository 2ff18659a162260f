"""Who is looking at the console, and what they may do there."""

from dataclasses import dataclass
from enum import StrEnum

from config.values import Role
from service.api.auth import Caller
from service.rules.credentials import Scope
from service.store.audit import ADMIN, Actor


class Power(StrEnum):
    """What somebody may do. What they may not do is neither shown nor possible."""

    READ = "read"
    CANCEL = "cancel"
    """Cancel jobs."""
    SUBMIT = "submit"
    """Retry, release, and send notices again: what may cost money."""
    OPERATE = "operate"
    """Lanes, accounts, processes, and what waits for an operator."""
    ADMINISTER = "administer"
    """Producers and their tokens."""


OF_SCOPES = {
    Scope.READ: frozenset({Power.READ}),
    Scope.CANCEL: frozenset({Power.CANCEL}),
    Scope.SUBMIT: frozenset({Power.SUBMIT}),
    Scope.ADMIN: frozenset(Power),
}
OF_ROLES = {
    Role.VIEWER: frozenset({Power.READ}),
    Role.OPERATOR: frozenset({Power.READ, Power.CANCEL, Power.SUBMIT, Power.OPERATE}),
    Role.ADMIN: frozenset(Power),
}


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Somebody who is logged in.

    `caller` is who they are to the API's own code. `session` is the beginning of the hash of their
    session, which the audit log names; None for somebody whom a proxy has logged in.
    """

    name: str
    caller: Caller
    powers: frozenset[Power]
    csrf: str
    """What every form must send back."""
    digest: bytes | None = None
    origin: str | None = None

    @property
    def sees_all(self) -> bool:
        """Whether it is an operator. A producer sees its own jobs only."""
        return self.caller.sees is None

    def may(self, power: str) -> bool:
        return Power(power) in self.powers

    @property
    def actor(self) -> Actor:
        """Who acts, as the audit log names it."""
        return Actor(
            name=self.name,
            credential=self.caller.token_id,
            origin=self.origin,
            request_id=f"console:{self.digest.hex()[:12]}" if self.digest else "console",
        )


def powers_of(caller: Caller) -> frozenset[Power]:
    """Return what a credential may do."""
    return frozenset().union(*(OF_SCOPES[scope] for scope in caller.scopes))


def name_of(caller: Caller) -> str:
    """Return how the audit log calls the holder of a credential."""
    return ADMIN if caller.token_id is None else f"producer:{caller.producer}"
