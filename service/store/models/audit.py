"""The audit log: what operators did."""

from datetime import datetime
from typing import Any

from sqlalchemy import Identity, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class Audit(Base):
    """One deed of an operator. A trigger refuses to change or delete it."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    """`admin` (the admin token), `producer:<name>`, or `os:<user>` of a command on a machine."""
    credential: Mapped[str | None]
    """The id of the token that was shown; None for the admin token."""
    origin: Mapped[str | None]
    """The address of the client, or `role@host` of a command on the database."""
    request_id: Mapped[str | None]
    verb: Mapped[str]
    object: Mapped[str]
    """Its path in the API, without `/v1/`: `producers/billing`, `jobs/<id>`."""
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    """What the deed changed, as it was and as it is. Never a secret."""

    __table_args__ = (
        Index("audit_actor_idx", "actor", "id"),
        # By the beginning as well: of a producer, and of everything that is a producer's.
        Index("audit_object_idx", "object", "id", postgresql_ops={"object": "text_pattern_ops"}),
    )
