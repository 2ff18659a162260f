"""Accounts at Together, and what is known of each model under them."""

from datetime import datetime

from sqlalchemy import (
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.store.models.base import Base


class Account(Base):
    __tablename__ = "accounts"

    name: Mapped[str] = mapped_column(primary_key=True)
    paused_until: Mapped[datetime | None]
    reason: Mapped[str | None]
    blocked_since: Mapped[datetime | None]
    """Set while Together refuses the key or the credit is used up."""
    spending: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether only calls that cost money are refused: paid batches are still polled and fetched."""
    refusals: Mapped[int] = mapped_column(server_default="0")


class Lane(Base):
    """A lane: what is known of one model at one endpoint under one account, and its admissions."""

    __tablename__ = "lanes"

    account: Mapped[str] = mapped_column(primary_key=True)
    endpoint: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    ended: Mapped[int] = mapped_column(server_default="0")
    """Batches that Together completed."""
    seconds: Mapped[float | None]
    """Seconds from a batch's create to its end: a moving average."""
    tokens_per_byte: Mapped[float | None]
    """Tokens used for each byte of request lines: a moving average."""
    admitted: Mapped[int] = mapped_column(server_default="0")
    """Batches that were ever admitted."""
    held_until: Mapped[datetime | None]
    """Set while its queue at Together is full: until then, nothing is sent into it."""
    reason: Mapped[str | None]
    refusals: Mapped[int] = mapped_column(server_default="0")
    """How many times in a row its queue was found full."""
