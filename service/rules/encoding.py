"""What keeps data from being JSON in UTF-8, and where: bytes are counted from 1, everywhere."""

import re

import msgspec

BOM = b"\xef\xbb\xbf"

_HIGH, _LOW = range(0xD800, 0xDC00), range(0xDC00, 0xE000)
# An escape, whole: in `\\ud83d` the backslash is what is escaped.
_ESCAPE = re.compile(rb"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)
_PLACE = re.compile(r"\(byte (\d+)\)$")
# With these words msgspec gives the number of bytes that it has read, else of those before.
_READ = ("trailing characters", "invalid escape character", "in unicode escape")


class NotUtf8(ValueError):
    """Says where data is not UTF-8."""


def check_utf8(data: bytes | bytearray) -> None:
    """Raises NotUtf8."""
    if data.isascii():
        return
    try:
        data.decode()
    except UnicodeDecodeError as error:
        at = error.start
        # How UTF-8 would write half of a surrogate pair, if it could.
        if data[at] == 0xED and data[at + 1 : at + 2] >= b"\xa0":
            raise NotUtf8(f"holds {_half(at)}") from None
        raise NotUtf8(f"is not UTF-8 (byte {at + 1})") from None


def json_trouble(data: bytes | bytearray, error: Exception, *, skipped: int = 0) -> str:
    """Return why data that is UTF-8 could not be read as JSON, for the person who wrote it.

    `error` is that of msgspec, `skipped` the bytes that stand before the data.
    """
    half = half_surrogate(data)
    if half is not None:
        return f"holds {_half(skipped + half)}"
    words = str(error)
    if isinstance(error, msgspec.DecodeError) and "truncated" in words:
        return f"is not JSON (it ends within a value, at byte {skipped + len(data)})"
    place = _PLACE.search(words)
    if place is not None:
        at = int(place[1]) + (not any(read in words for read in _READ))
        words = f"{words[: place.start()]}(byte {skipped + at})"
    return f"is not JSON ({words.removeprefix('JSON is malformed: ')})"


def half_surrogate(data: bytes | bytearray) -> int | None:
    """Return where the first escape stands that is half of a surrogate pair. None: there is none.

    Some program cut a text between the two halves of a character, such as an emoji.
    """
    high: int | None = None
    behind = -1
    for escape in _ESCAPE.finditer(data):
        code = int(escape[1], 16) if escape[1] is not None else 0
        if high is not None and not (code in _LOW and escape.start() == behind):
            return high
        if code in _LOW and high is None:
            return escape.start()
        high = escape.start() if code in _HIGH else None
        behind = escape.end()
    return high


def _half(at: int) -> str:
    return (
        f"half of a surrogate pair (byte {at + 1}): its text was cut in the middle of a character,"
        " such as an emoji; cut it elsewhere"
    )
