"""Which messages say the same: the text that groups failures, wherever they are grouped."""

import re
from hashlib import sha256

LONGEST = 300
"""The most characters of a text; what differs only behind them counts as the same."""

# In this order: a quote may hold a place, a place may hold an id, and an id holds numbers. None of
# the patterns can match in two ways, so that a message of any kind takes linear time.
_OUT: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"\"[^\"\n]*\"|`[^`\n]*`|“[^”\n]*”|\u2018[^\u2019\n]*\u2019|(?<!\w)'[^'\n]*'(?!\w)"
        ),
        "…",
    ),
    (re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://[^\s,;)\]}>]*"), "<place>"),
    (re.compile(r"(?<![\w<])(?:[a-z]:)?[/\\][^\s,;:)\]}>]+"), "<place>"),
    (re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?![\w.])"), "<place>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<id>"),
    # Letters and digits mixed, and long: what a program made up.
    (re.compile(r"\b(?=[a-z_-]*\d)(?=[\d_-]*[a-z])[\w-]{8,}(?![\w-])"), "<id>"),
    (re.compile(r"[+-]?\d+(?:[.,:]\d+)*"), "#"),
    (re.compile(r"\s+"), " "),
)


def alike(message: str) -> str:
    """Return a message without its numbers, ids, quotes and places, so that equal faults are equal.

    In lower case, and at most LONGEST characters long.
    """
    text = message[: 4 * LONGEST].lower()
    for pattern, sign in _OUT:
        text = pattern.sub(sign, text)
    return text[: 2 * LONGEST].strip()[:LONGEST].strip()


def cause_id(code: str, text: str) -> str:
    """Return the short name of a cause: failures of one code whose messages are alike (`text`)."""
    return sha256(f"{code}\n{text}".encode(errors="replace")).hexdigest()[:12]
