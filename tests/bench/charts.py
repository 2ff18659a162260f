"""Line charts as SVG, written by hand: three of them are no reason for a plotting library."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 50
COLOURS = ("#0b6e99", "#d9730d", "#0f7b6c", "#ad1a72", "#6940a5", "#64473a", "#dfab01")

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Some lines over one axis. `log` puts both axes on a logarithmic scale: values above 0."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Points]
    log: bool = False

    def svg(self) -> str:
        """The whole document."""
        xs = [x for points in self.lines.values() for x, _ in points]
        ys = [y for points in self.lines.values() for _, y in points]
        across = _Axis(xs, log=self.log, start=LEFT, end=WIDTH - RIGHT)
        up = _Axis(ys, log=self.log, start=HEIGHT - BOTTOM, end=TOP)
        body = [*self._frame(across, up)]
        for number, (name, points) in enumerate(self.lines.items()):
            body += _line(name, points, number, across, up)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
            ' font-family="sans-serif" font-size="12" fill="#333">\n'
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n'
            + "\n".join(body)
            + "\n</svg>\n"
        )

    def _frame(self, across: "_Axis", up: "_Axis") -> list[str]:
        """The title, the grid and what the axes mean."""
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = [_text(LEFT, 22, self.title, size=14)]
        for value in across.ticks():
            at = across.place(value)
            parts.append(_stroke(at, TOP, at, bottom))
            parts.append(_text(at, bottom + 16, _number(value), anchor="middle"))
        for value in up.ticks():
            at = up.place(value)
            parts.append(_stroke(LEFT, at, right, at))
            parts.append(_text(LEFT - 6, at + 4, _number(value), anchor="end"))
        parts.append(_text((LEFT + right) / 2, HEIGHT - 12, self.x, anchor="middle"))
        parts.append(_text(LEFT, TOP - 4, self.y))
        return parts


class _Axis:
    """Where values lie: from 0, or from a power of ten on a logarithmic scale."""

    def __init__(self, values: Sequence[float], *, log: bool, start: float, end: float) -> None:
        self._log = log
        self._start, self._end = start, end
        top = max(values, default=1) or 1
        if log:
            self._low = float(math.floor(math.log10(min(values))))
            self._high = max(math.ceil(math.log10(top)), self._low + 1)
        else:
            self._step = _step(top)
            self._low, self._high = 0.0, math.ceil(top / self._step) * self._step

    def place(self, value: float) -> float:
        at = math.log10(value) if self._log else value
        share = (at - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self) -> list[float]:
        if self._log:
            return [10.0**power for power in range(int(self._low), int(self._high) + 1)]
        return [number * self._step for number in range(round(self._high / self._step) + 1)]


def _step(top: float) -> float:
    """About five steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(top / 5))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= top / 5)


def _line(name: str, points: Points, number: int, across: _Axis, up: _Axis) -> list[str]:
    colour = COLOURS[number % len(COLOURS)]
    places = " ".join(f"{across.place(x)},{up.place(y)}" for x, y in points)
    drawn = f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
    legend = TOP + 14 + 18 * number
    right = WIDTH - RIGHT + 14
    key = f'<rect x="{right}" y="{legend - 9}" width="10" height="10" fill="{colour}"/>'
    return [drawn, key, _text(right + 16, legend, name)]


def _stroke(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#ddd"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 or value == 0 else f"{value:g}"
