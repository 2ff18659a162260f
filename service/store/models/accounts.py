"""Accounts at Together, and what is known of each model under them."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from service.rules.states import LaneState
from service.store.models.base import Base, one_of


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
    paused_at: Mapped[datetime | None]
    """Set while an operator keeps everything from being sent, whatever Together says."""
    pause_reason: Mapped[str | None]
    """The operator's words."""


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
    state: Mapped[LaneState] = mapped_column(server_default=text("'healthy'"))
    """Whether what waits may be admitted, as its batches have shown."""
    since: Mapped[datetime | None]
    """Since when it is in this state; None if it was never in another."""
    until: Mapped[datetime | None]
    """When it leaves this state by itself, where that is known."""
    health: Mapped[dict[str, Any] | None]
    """All that its state depends on, as a `service.rules.lanes.Health`."""
    paused_at: Mapped[datetime | None]
    """Set while an operator keeps everything from being sent into it."""

    __table_args__ = (CheckConstraint(one_of("state", LaneState), name="state"),)
