"""How the console writes times, figures and amounts."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from markupsafe import Markup

_STEPS = ((86_400 * 365, "y"), (86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
NOTHING = "\N{EN DASH}"
_SIZES = ("B", "kB", "MB", "GB", "TB", "PB")


def span(length: timedelta | float) -> str:
    """Return a duration in its two largest units: `3 d 4 h`."""
    seconds = int(length.total_seconds() if isinstance(length, timedelta) else length)
    if seconds < 1:
        return "0 s"
    for position, (size, unit) in enumerate(_STEPS):
        if seconds < size:
            continue
        whole, rest = divmod(seconds, size)
        if position + 1 < len(_STEPS) and whole < 10:
            below, name = _STEPS[position + 1]
            if rest // below:
                return f"{whole} {unit} {rest // below} {name}"
        return f"{whole} {unit}"
    return f"{seconds} s"


def ago(at: datetime | None, now: datetime) -> Markup | str:
    """Return an instant as it lies to now, with the instant itself on hover."""
    if at is None:
        return NOTHING
    passed = now - at
    if abs(passed) < timedelta(seconds=1):
        words = "now"
    elif passed > timedelta(0):
        words = f"{span(passed)} ago"
    else:
        words = f"in {span(-passed)}"
    return timed(at, words)


def timed(at: datetime, words: str) -> Markup:
    """Return words with an instant on hover."""
    absolute = at.astimezone(UTC)
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        absolute.isoformat(timespec="seconds"), f"{absolute:%Y-%m-%d %H:%M:%S}", words
    )


def figure(number: Any) -> str:
    """Return a number that can be read: `1,234`, from a hundred thousand on `123 k`, `4.5 M`."""
    if number is None:
        return NOTHING
    value = int(number)
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**5, "k")):
        if abs(value) >= size:
            scale = 1000 if unit == "k" else size
            shown = value / scale
            return f"{shown:.1f} {unit}" if shown < 100 and unit != "k" else f"{shown:,.0f} {unit}"
    return f"{value:,}"


def exactly(number: Any) -> str:
    """Return a whole number with all its digits."""
    return NOTHING if number is None else f"{int(number):,}"


def size(count: int | None) -> str:
    """Return bytes."""
    if count is None:
        return NOTHING
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_SIZES) - 1:
        value, unit = value / 1000, unit + 1
    return (
        f"{value:.0f} {_SIZES[unit]}"
        if unit == 0 or value >= 100
        else f"{value:.1f} {_SIZES[unit]}"
    )


def usd(amount: Decimal | str | None) -> str:
    """Return an amount of money: cents, or more digits where there are no cents."""
    if amount is None:
        return NOTHING
    value = Decimal(amount)
    if value and abs(value) < Decimal("0.01"):
        return f"${value.normalize():f}"
    return f"${value:,.2f}"


def brief(identifier: Any) -> str:
    """Return the first digits of an id, by which the search finds it."""
    return str(identifier)[:8]


def plural(number: int, one: str, many: str | None = None) -> str:
    """Return `1 job`, `2 jobs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
