"""What is wrong with an input, and in which of its lines."""

from array import array
from bisect import bisect_right, insort

from service.rules.errors import MOST_PROBLEMS, BadInput, Problem


class Problems:
    """The problems of an input: the first MOST_PROBLEMS by line, and the number of all."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: list[Problem] = []

    def note(self, message: str, line: int | None = None) -> None:
        self.count += 1
        if len(self._kept) == MOST_PROBLEMS and (line or 0) >= (self._kept[-1].line or 0):
            return
        insort(self._kept, Problem(message, line), key=lambda problem: problem.line or 0)
        del self._kept[MOST_PROBLEMS:]

    def raise_any(self) -> None:
        """Raise BadInput if there are any."""
        if self._kept:
            raise BadInput(self._kept, more=self.count - len(self._kept))


class LineNumbers:
    """Maps requests to line numbers. Uses memory only for gaps, where lines were left out."""

    def __init__(self) -> None:
        self._ordinals = array("Q")
        self._lines = array("Q")

    def note(self, ordinal: int, line: int) -> None:
        """Record a request's line. The requests after it stand in the lines after it."""
        if not self._lines or line - ordinal != self._lines[-1] - self._ordinals[-1]:
            self._ordinals.append(ordinal)
            self._lines.append(line)

    def line_of(self, ordinal: int) -> int:
        at = bisect_right(self._ordinals, ordinal) - 1
        return self._lines[at] + ordinal - self._ordinals[at]
