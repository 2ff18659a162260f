"""How the parts of a batch are judged, and a part with what became of its requests."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from service.rules.retry import OwnTexts, own_texts
from service.rules.states import LaneState
from service.rules.work import BatchClaim, Entry, PartClaim
from service.stages.clients import AccountClients
from service.stages.poison import divide, divisions
from service.stages.reconcile import FailurePolicy, Verdicts


@dataclass(frozen=True)
class Judged:
    """A part with its requests, what they are called in the batch, and what became of them.

    `first` is the number of its first request among those of all open parts.
    """

    part: PartClaim
    entries: list[Entry]
    names: Sequence[str]
    first: int
    verdicts: Verdicts

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + len(self.entries))

    @property
    def missing(self) -> Iterator[int | str]:
        """What is missing: by ordinal, or by name where other jobs have the same ordinals."""
        ordinals = set(self.verdicts.missing)
        if not ordinals:
            return
        for entry, name in zip(self.entries, self.names, strict=True):
            if entry.ordinal in ordinals:
                yield name

    @property
    def is_served(self) -> bool:
        return self.verdicts.succeeded == len(self.entries)

    @property
    def is_carried(self) -> bool:
        """Whether all of it goes again."""
        return len(self.verdicts.carried) == len(self.entries)


def texts_of(clients: AccountClients) -> OwnTexts:
    return own_texts(
        permanent=clients.settings.permanent_errors,
        retryable=clients.settings.retryable_errors,
    )


def is_borne(batch: BatchClaim, part: PartClaim, patience: timedelta) -> bool:
    """Whether what an ill lane does to a part's requests is no attempt. It has an end."""
    if batch.lane_state is LaneState.HEALTHY:
        return False
    return part.outage_since is None or batch.now - part.outage_since < patience


def policies(
    batch: BatchClaim,
    clients: AccountClients,
    parts: Sequence[PartClaim],
    outage: bool,
    texts: OwnTexts,
) -> Callable[[PartClaim], FailurePolicy]:
    """Return what makes the policy of each part."""
    patience = timedelta(hours=clients.settings.outage_hours)

    def borne(part: PartClaim) -> bool:
        return is_borne(batch, part, patience)

    by_parts = divisions(batch, parts, borne) if len(parts) > 1 else None

    def policy(part: PartClaim) -> FailurePolicy:
        return FailurePolicy(
            max_attempts=part.max_attempts,
            cancelled=part.cancelled,
            provider_status=batch.provider_status or "",
            provider_error=batch.provider_error,
            own_texts=texts,
            divide=partial(divide, batch, is_borne=borne(part))
            if by_parts is None
            else partial(by_parts, part),
            outage=outage,
            is_ill=batch.lane_state is not LaneState.HEALTHY,
            is_borne=borne(part),
        )

    return policy
