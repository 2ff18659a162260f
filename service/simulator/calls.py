"""The log of API calls: the last ones, how many of each kind, and who calls too fast."""

from collections import Counter, deque

import msgspec

KEPT_CALLS = 10_000


class LoggedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that was answered or dropped (`status` None). `at` is in Unix seconds."""

    operation: str
    at: float
    account: str
    targets: tuple[str, ...]
    status: int | None
    fault: str | None


class CallLog:
    """The last calls, and how many there were of each kind."""

    def __init__(self) -> None:
        """Nothing was called."""
        self.last: deque[LoggedCall] = deque(maxlen=KEPT_CALLS)
        self.counts: Counter[str] = Counter()
        self._recent: dict[str, deque[float]] = {}

    def add(self, call: LoggedCall) -> None:
        """Log a call."""
        self.last.append(call)
        self.counts[call.operation] += 1

    def clear(self) -> None:
        """Forget all calls."""
        self.last.clear()
        self.counts.clear()
        self._recent.clear()

    def too_fast(self, account: str, *, at: float, per_second: float) -> bool:
        """Whether an account has called more often than so in the last second."""
        recent = self._recent.setdefault(account, deque())
        while recent and recent[0] <= at - 1:
            recent.popleft()
        if len(recent) >= per_second:
            return True
        recent.append(at)
        return False
