"""Sessions of the console."""

from datetime import datetime

from sqlalchemy import Index, func
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class ConsoleSession(Base):
    """Somebody who is logged in to the console. Only the browser knows the secret of its cookie."""

    __tablename__ = "console_sessions"

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    """HMAC-SHA-256 of the cookie's secret under the admin token: a new admin token ends all."""
    credential: Mapped[str | None]
    """The id of the token that was shown; None for the admin token."""
    origin: Mapped[str | None]
    """The address of the browser."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]

    __table_args__ = (Index("console_sessions_expires_at_idx", "expires_at"),)
