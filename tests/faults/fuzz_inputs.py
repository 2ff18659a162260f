"""Odd inputs for a fuzz run: what is fine, with something changed in it."""

import random
from collections.abc import Sequence
from typing import Any

import msgspec

TEXTS = (
    "",
    " ",
    "\x00",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "=cmd|' /C calc'!A0",
    "x" * 5_000,
    "\U0001f9ea" * 300,
    "../../../../etc/passwd",
    "file:///etc/passwd",
    "https://169.254.169.254/latest",
    "null",
    "1e999",
    "-1",
    "'; DROP TABLE haulier.jobs; --",
    "%00%0d%0aX-Injected: yes",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    2**31,
    2**63,
    10**40,
    1e308,
    0.1,
    [],
    {},
    [[]],
    {"": None},
    *TEXTS,
)
BYTES = (b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b'"', b"\\", b"\n", b"\r", b"{", b"}")
# Almost JSON, and JSON that only some readers take.
ODD_JSON = (
    b"",
    b" ",
    b"nul",
    b"NaN",
    b'"\\ud800"',
    b'{"a":1,"a":2}',
    b"[" * 20_000,
    b'{"a":' * 5_000,
    b"1" * 10_000,
    b"\xff\xfe{\x00}\x00",
    b"\x1f\x8b\x08\x00",
)


class Mutator:
    """Changes things at random; the same seed makes the same changes."""

    def __init__(self, luck: random.Random) -> None:
        self._luck = luck

    def one_of(self, choices: Sequence[Any]) -> Any:
        return self._luck.choice(choices)

    def maybe(self, probability: float) -> bool:
        return self._luck.random() < probability

    def text(self, good: str) -> str:
        """A text that is mostly not what was meant."""
        return str(self.one_of([good, good[: len(good) // 2], *TEXTS]))

    def json(self, value: Any) -> bytes:
        """A document with up to three of its places changed, and sometimes its bytes."""
        if self.maybe(0.1):
            return bytes(self.one_of(ODD_JSON))
        for _ in range(self._luck.randint(0, 3)):
            value = self._changed(value)
        data = msgspec.json.encode(value)
        return self.bytes(data) if self.maybe(0.3) else data

    def _changed(self, value: Any) -> Any:
        if isinstance(value, dict) and value and self.maybe(0.9):
            key = self.one_of(list(value))
            rest = {name: inner for name, inner in value.items() if name != key}
            if self.maybe(0.15):
                return rest
            if self.maybe(0.1):
                return {**rest, self.text(key): value[key]}
            return {**rest, key: self._changed(value[key])}
        if isinstance(value, list) and value and self.maybe(0.9):
            at = self._luck.randrange(len(value))
            if self.maybe(0.2):
                return value[:at] + value[at + 1 :]
            if self.maybe(0.2):
                return [*value, value[at]]
            return [*value[:at], self._changed(value[at]), *value[at + 1 :]]
        return self.one_of(VALUES)

    def bytes(self, data: bytes) -> bytes:
        """Bytes with up to four changes."""
        for _ in range(self._luck.randint(0, 4)):
            at = self._luck.randint(0, len(data))
            match self._luck.randrange(4):
                case 0:
                    data = data[:at]
                case 1:
                    data = data[:at] + self.one_of(BYTES) + data[at:]
                case 2:
                    data = data[:at] + data[at + self._luck.randint(1, 20) :]
                case _:
                    data = data[:at] + bytes([self._luck.randrange(256)]) + data[at + 1 :]
        return data
