"""Outages: times at which Together itself is in trouble, with lines, batches or creates."""

import re
from collections.abc import Sequence
from typing import Literal

import msgspec


class Outage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """While it lasts, everything of its kind fails. Times in seconds, from when it is declared."""

    kind: Literal["lines", "batches", "creates"]
    begin: float = 0.0
    seconds: float | None = None
    """How long it lasts; None: for ever."""
    every: float | None = None
    """It comes again so often, counted from begin to begin: a lane that flaps."""
    model: str | None = None
    """Only this model: a regular expression found in its name (of a batch: of its first line)."""
    pattern: str | None = None
    """Of `lines`: only these, by a regular expression for the whole custom_id."""
    contains: str | None = None
    """Of `lines`: only these, by a text anywhere in the input line."""
    message: str = "Internal Server Error"
    status: int = 500
    """Of `creates`."""
    since: float | None = None
    """The instant from which times count, as a Unix time. It is set when the scenario is played."""

    def __post_init__(self) -> None:
        """Refuse what could never be."""
        for field in ("model", "pattern"):
            try:
                re.compile(getattr(self, field) or "")
            except re.error as error:
                raise ValueError(f"{field} is no regular expression: {error}") from error
        if self.kind != "lines" and (self.pattern is not None or self.contains is not None):
            raise ValueError("pattern and contains are for outages of lines")
        if self.every is not None and (self.seconds is None or not 0 < self.seconds < self.every):
            raise ValueError("an outage that comes again lasts for less than `every` seconds")

    def is_on(self, now: float) -> bool:
        """Whether it lasts at an instant."""
        elapsed = now - (self.since or 0.0) - self.begin
        if elapsed < 0:
            return False
        if self.every is not None:
            elapsed %= self.every
        return self.seconds is None or elapsed < self.seconds

    def hits_model(self, model: str | None) -> bool:
        """Whether a model is among those that it befalls."""
        return self.model is None or re.search(self.model, model or "") is not None

    def hits_line(self, custom_id: str, line: bytes) -> bool:
        """Whether an input line is meant, its model aside."""
        return (self.pattern is None or re.fullmatch(self.pattern, custom_id) is not None) and (
            self.contains is None or self.contains.encode() in line
        )


def declared(outages: Sequence[Outage], now: float) -> tuple[Outage, ...]:
    """The outages with the instant from which their times count; one that has it keeps it."""
    return tuple(
        outage if outage.since is not None else msgspec.structs.replace(outage, since=now)
        for outage in outages
    )


def lasting(outages: Sequence[Outage], kind: str, now: float) -> tuple[Outage, ...]:
    """The outages of a kind that last just now."""
    return tuple(outage for outage in outages if outage.kind == kind and outage.is_on(now))
